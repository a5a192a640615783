"""Requests over REST."""


def predict(call, body, model="half_plus_three", verb="predict"):
    """Return the status and the answer to a request for a prediction."""
    answer = call("POST", f"/v1/models/{model}:{verb}", body)
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status_code, answer.json()
