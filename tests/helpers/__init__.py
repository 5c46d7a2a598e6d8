"""What tests share: tiny models, batches, plugins of a user, stand-ins for devices and services."""
