"""Runs an export: behind endpoints, and on devices (mobile/). Imports nothing of xkd_keras."""
