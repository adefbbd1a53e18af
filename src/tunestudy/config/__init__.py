"""Settings of a study and of a resolved job, and the errors users see. Imports nothing of tunestudy."""
