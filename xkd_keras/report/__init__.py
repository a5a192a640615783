"""What a person looks at, written from what a run's directory holds. Needs no TensorFlow.

run_page and deployment_page are its two parts; page (Markdown), plots and findings serve them.
"""
