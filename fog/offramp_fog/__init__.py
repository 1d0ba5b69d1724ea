"""The middle tier: takes codes from devices, answers what it can, hands the rest on."""
