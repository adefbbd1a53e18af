"""Trackers: what a study's files hold, shown elsewhere. They read after the fact, in processes of their own."""
