#!/bin/sh
# A test authority, and a folder of certificates for each tier and caller of a rehearsal. Not for production: README.md.
#
#   deploy/tls/make.sh FOLDER              # authority, cloud, fog, device, app, operator; once
#   deploy/tls/make.sh FOLDER fog          # a new certificate for one of them, from the same authority
#   DAYS=1 NAMES=DNS:fog-2 deploy/tls/make.sh FOLDER fog-2
#
# FOLDER/authority has the authority's key; FOLDER/NAME has ca.crt, tls.crt, tls.key and, for a tier, callers (who may
# call it); FOLDER/app/token is the token of the application beside the device, and FOLDER/operator/token may push to it. DAYS: how
# long a certificate is good for (7; -1: it has expired). NAMES: subject alternative names beside DNS:NAME. Needs openssl.
set -eu

folder=${1:?usage: make.sh FOLDER [NAME]}
days=${DAYS:-7}
umask 077 # nobody else reads a key

p256() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

authority() {
  mkdir -p "$folder/authority"
  p256 "$folder/authority/ca.key"
  openssl req -x509 -new -key "$folder/authority/ca.key" -out "$folder/authority/ca.crt" -sha256 -days 30 \
    -subj "/CN=offramp test authority" -addext "keyUsage=critical,keyCertSign,cRLSign"
}

certificate() {
  mkdir -p "$folder/$1"
  new=$(mktemp -d "$folder/$1/.new.XXXXXX")
  p256 "$new/tls.key"
  openssl req -new -key "$new/tls.key" -subj "/CN=$1" -out "$new/request"
  # A tier is a server to the tier below and a client of the tier above.
  printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n%s\n' \
    "subjectAltName=DNS:$1${NAMES:+,$NAMES}" >"$new/extensions"
  openssl x509 -req -in "$new/request" -CA "$folder/authority/ca.crt" -CAkey "$folder/authority/ca.key" \
    -set_serial "0x$(openssl rand -hex 16)" -days "$days" -sha256 -extfile "$new/extensions" -out "$new/tls.crt" 2>/dev/null
  cp "$folder/authority/ca.crt" "$new/ca.crt"
  # Each file whole or not at all, for a tier may be reading.
  mv "$new/ca.crt" "$new/tls.key" "$new/tls.crt" "$folder/$1/"
  rm -r "$new"
}

if [ $# -gt 1 ]; then
  certificate "$2"
  exit
fi
[ ! -e "$folder/authority" ] || { echo "make.sh: $folder/authority is there already" >&2; exit 1; }
authority
for name in cloud fog app operator; do certificate "$name"; done
NAMES=DNS:localhost,IP:127.0.0.1 # the application is on the same machine
certificate device
openssl rand -hex 32 >"$folder/app/token"
openssl rand -hex 32 >"$folder/operator/token"
digest() { tr -d '\n' <"$folder/$1/token" | openssl dgst -sha256 -r | cut -d ' ' -f 1; }
printf 'certificate fog\ncertificate operator push\n' >"$folder/cloud/callers"
printf 'certificate device\ncertificate operator push\n' >"$folder/fog/callers"
printf 'token app %s\ntoken operator %s push\n' "$(digest app)" "$(digest operator)" >"$folder/device/callers"
