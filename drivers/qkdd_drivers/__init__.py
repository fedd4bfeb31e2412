"""Device drivers and, beside each, its simulator."""
