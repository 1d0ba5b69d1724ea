"""The first tier: takes images, answers what its exit is sure of, hands the rest on."""
