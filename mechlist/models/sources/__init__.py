"""Where models come from: directories and the hub, and what their files hold."""
