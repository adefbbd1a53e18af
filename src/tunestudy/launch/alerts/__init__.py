"""What calls for attention while a study runs, found in the files of its jobs."""
