"""The rival of `pointsman bench daemon`: the lookup and blend of POST /v1/route as a FastAPI service with faiss-cpu.

    route_fastapi.py DIR WORKERS faiss|numpy    prints {"port": N}; answers POST /route until SIGTERM

DIR holds what `bench daemon` writes: shape.json and the arrays of one layer in fp32. The wire format is that of
schemas/route_binary.md without the optional arrays. As a service that has to be fast: uvloop and httptools, a process a
core with one thread each, arrays and not JSON on the wire, nothing copied that need not be, and of FAISS's two ways to
search a flat index (a product by BLAS, or a scan a query) the one that is faster on this machine, measured at start.
`numpy` is the same service without FAISS: a product and argpartition, which for so few queries may be faster.
"""

import contextlib
import json
import os
import pathlib
import struct
import sys
import time

import faiss
import numpy
import uvicorn
from fastapi import FastAPI, Request, Response
from uvicorn.supervisors import Multiprocess

HEAD = struct.Struct("<4sIIIIIfI")


class Layer:
    def __init__(self, folder):
        shape = json.loads((folder / "shape.json").read_text())
        self.hidden, self.experts, self.dim = shape["hidden"], shape["experts"], shape["dim"]
        self.k, self.tau, self.tau2, self.scale = shape["k"], shape["tau"], shape["tau2"], shape["scale"]

        def array(name, columns):
            return numpy.fromfile(folder / name, dtype=numpy.float32).reshape(-1, columns)

        self.mean = array("mean.f32", self.hidden)
        self.projection = numpy.ascontiguousarray(array("projection.f32", self.hidden).T)
        self.values = array("values.f32", self.experts)
        keys = array("keys.f32", self.dim)
        if os.environ["ROUTE_SEARCH"] == "numpy":
            self.keys = numpy.ascontiguousarray(keys.T)
            self.search = self.search_numpy
            return
        self.index = faiss.IndexFlatIP(self.dim)
        self.index.add(keys)
        self.search = self.index.search
        self.choose_search(shape["rows_a_request"])

    def choose_search(self, rows):
        queries = numpy.random.default_rng(0).standard_normal((rows, self.dim), dtype=numpy.float32)
        taken = {}
        for threshold in (1, 1 << 30):  # a product for any number of queries, or never
            faiss.cvar.distance_compute_blas_threshold = threshold
            self.index.search(queries, self.k)
            started = time.perf_counter()
            for _ in range(5):
                self.index.search(queries, self.k)
            taken[threshold] = time.perf_counter() - started
        faiss.cvar.distance_compute_blas_threshold = min(taken, key=taken.get)

    def search_numpy(self, query, k):
        similarity = query @ self.keys
        rows = numpy.argpartition(similarity, -k, axis=1)[:, -k:]
        similarity = numpy.take_along_axis(similarity, rows, axis=1)
        order = numpy.argsort(-similarity, axis=1)
        return numpy.take_along_axis(similarity, order, axis=1), numpy.take_along_axis(rows, order, axis=1)

    def route(self, hidden, logits, strength):
        query = (hidden - self.mean) @ self.projection
        query /= numpy.linalg.norm(query, axis=1, keepdims=True)
        similarity, rows = self.search(query, self.k)
        weights = numpy.exp((similarity - similarity[:, :1]) / self.tau)
        weights /= weights.sum(axis=1, keepdims=True)
        confidence = numpy.exp((similarity.mean(axis=1, keepdims=True) - 1) / self.tau2)
        change = numpy.matmul(weights[:, None, :], self.values[rows])[:, 0]
        return logits + strength * self.scale * confidence * change


@contextlib.asynccontextmanager
async def lifespan(app):
    faiss.omp_set_num_threads(1)
    app.state.layer = Layer(pathlib.Path(os.environ["ROUTE_DATA"]))
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/route")
async def route(request: Request):
    layer = app.state.layer
    body = await request.body()
    magic, _, rows, hidden, experts, flags, strength, _ = HEAD.unpack_from(body)
    if magic != b"PMR1" or flags or (hidden, experts) != (layer.hidden, layer.experts):
        return Response(status_code=400)
    if len(body) != HEAD.size + 4 * rows * (hidden + experts):
        return Response(status_code=400)
    inputs = numpy.frombuffer(body, numpy.float32, rows * hidden, HEAD.size).reshape(rows, hidden)
    logits = numpy.frombuffer(body, numpy.float32, rows * experts, HEAD.size + inputs.nbytes).reshape(rows, experts)
    # On the event loop: a process has one core, and another thread would only be switched to.
    routed = layer.route(inputs, logits, strength)
    written = (routed != logits).any(axis=1).astype(numpy.uint8)
    return Response(struct.pack("<IIII", rows, experts, 0, 0) + routed.astype(numpy.float32).tobytes() + written.tobytes(),
                    media_type="application/octet-stream")


def main():
    os.environ["ROUTE_DATA"], os.environ["ROUTE_SEARCH"] = sys.argv[1], sys.argv[3]
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    config = uvicorn.Config("route_fastapi:app", host="127.0.0.1", port=0, workers=int(sys.argv[2]), loop="uvloop",
                            http="httptools", log_level="warning", access_log=False)
    socket = config.bind_socket()
    print(json.dumps({"port": socket.getsockname()[1]}), flush=True)
    Multiprocess(config, sockets=[socket]).run()


if __name__ == "__main__":
    main()
