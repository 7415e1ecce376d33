"""What `prepare` looks at before any GPU is asked for: are inputs fit for what the stages use them for?"""
