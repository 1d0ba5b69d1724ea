"""Many devices before one tier, for the benchmarks of overload, growth and fairness.

    main process                       starts tiers, scrapes their metrics
    load generator, on its own core    a fleet of raw streams, each its own connection and origin

A raw stream costs the generator little, so that one core stands for hundreds of devices; and it may take no heed of the
credits that it was granted.
"""
