# The library and the quickstart on a GPU (pip's PyTorch brings its own CUDA; the host needs the NVIDIA container toolkit):
#   docker build -t captcha-lab:all-gpu .
#   docker run --gpus all -it captcha-lab:all-gpu
FROM python:3.12-slim
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
WORKDIR /captcha_lab
COPY . .
RUN python -m pip install -e .
CMD ["bash", "-c", "captcha-lab quickstart; exec bash"]
