"""What runs Cloudloom, and the private counterparts that tests and the demo use."""
