# Pipit in a container. Set REDIS_URL, DATABASE_URL and SECRET_KEY, and PORT if it is not 5000.
# Before the first start, and before each new version, run: docker run --rm --env-file FILE pipit flask db upgrade

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
