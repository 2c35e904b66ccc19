"""Object storage: keys, array layout, sidecars, reports, and readers of maps. No torch, no SQL."""
