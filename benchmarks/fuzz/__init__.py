"""What comes from outside, made up by a fuzzer that watches which lines each input reaches (`make fuzz`)."""
