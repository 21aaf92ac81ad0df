# Pipit in a container, for any platform that runs one: give it PORT, REDIS_URL, DATABASE_URL and SECRET_KEY.
# Before the first start, and at each new version: docker run --rm ... pipit flask db upgrade

FROM python:3.13-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /pipit

COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt

COPY . .
RUN useradd --system pipit && install -d -o pipit instance
USER pipit

EXPOSE 5000
CMD ["gunicorn"]
