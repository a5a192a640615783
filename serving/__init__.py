"""What runs an export: on devices, and behind endpoints. Imports nothing of xkd_keras."""
