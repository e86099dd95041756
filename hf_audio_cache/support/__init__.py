"""What any room may need: threads and forks, secrets, reports, units, paths of the user's home.

Nothing here knows of audio, processors or entries.
"""
