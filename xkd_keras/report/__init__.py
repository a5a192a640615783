"""What a person looks at, written from what a run's directory holds. Needs no TensorFlow.

run_page, deployment_page and mistakes_page are what is opened. headline, learning, teaching, trust,
by_class, mistakes and curves are parts of the first; page (Markdown), plots and findings serve all.
"""
