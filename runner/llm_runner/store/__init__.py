"""Where files come from and go to: local folders, s3://, hf:// and https://.

Knows nothing of what is in the files. Credentials are the environment's, or a token that is handed in.
"""
