"""A transformers model as the child of `pointsman build` or `eval --capture transformers`: it computes, the parent routes.

    python -m pointsman.transformers.host --model DIR [--dtype bfloat16] [--device cuda] [--threads N]

Standard input is a socket to the parent; the messages are adapt/host_process.h's, the questions adapt/hosted_model.h's. At
every MoE layer of a pass the router's inputs and logits go to the parent, which answers with the logits to select by. A pass
that is to be differentiated stays here with its graph; in the backward pass each layer asks the parent in the same way, so
that gradients go through whatever the parent computed. The process ends with the socket.

T rows = B sequences times their columns, H hidden size, E experts. Arrays travel as fp32.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from typing import Any, Optional, Sequence

import torch
import transformers
from torch import Tensor, nn

from ..errors import Error, UnsupportedError
from ..fingerprint import of_checkpoint
from .routers import MoeLayer, adapt, check_selection, find_layers


class Channel:
    """Messages over the socket; EOFError where the parent has gone."""

    def __init__(self, connection: socket.socket) -> None:
        self.file = connection.makefile("rwb", buffering=1 << 20)

    def send(self, head: dict[str, Any], *arrays: Tensor) -> None:
        sent = [array.detach().float().cpu().contiguous() for array in arrays]
        text = json.dumps(head | {"arrays": [["float32", list(array.shape)] for array in sent]}).encode()
        self.file.write(len(text).to_bytes(8, "little") + text)
        for array in sent:
            self.file.write(array.numpy().data)
        self.file.flush()

    def receive(self) -> tuple[dict[str, Any], list[Tensor]]:
        head = json.loads(self._read(int.from_bytes(self._read(8), "little")))
        arrays = []
        for kind, shape in head["arrays"]:
            array = torch.empty(shape, dtype=getattr(torch, kind))
            if array.numel() and self.file.readinto(array.numpy().reshape(-1).view("uint8").data) != array.numel() * array.element_size():
                raise EOFError
            arrays.append(array)
        return head, arrays

    def _read(self, count: int) -> bytes:
        data = self.file.read(count)
        if len(data) != count:
            raise EOFError
        return data


class Ask(torch.autograd.Function):
    """The parent's routing as a step of the graph. `anchor` requires a gradient where nothing before the first router does."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, hidden: Tensor, logits: Tensor, layer: int, channel: Channel) -> Tensor:
        ctx.layer, ctx.channel, ctx.like = layer, channel, (hidden.dtype, logits.dtype)
        return routed(channel, layer, hidden, logits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        wanted = ctx.needs_input_grad[1:3]
        ctx.channel.send({"say": "gradient", "layer": ctx.layer, "hidden": wanted[0], "logits": wanted[1]}, gradient)
        answers = iter(ctx.channel.receive()[1])
        hidden, logits = (next(answers).to(gradient.device, dtype) if want else None for want, dtype in zip(wanted, ctx.like))
        return None, hidden, logits, None, None


def routed(channel: Channel, layer: int, hidden: Tensor, logits: Tensor) -> Tensor:
    channel.send({"say": "route", "layer": layer}, hidden, logits)
    answer = channel.receive()[1]
    return answer[0].to(logits.device, logits.dtype) if answer else logits.clone()


class Host:
    """The model with all its routers asking the parent, until the process ends."""

    def __init__(self, channel: Channel, model: nn.Module, layers: Sequence[MoeLayer]) -> None:
        self.channel, self.model, self.layers = channel, model, layers
        self.device = next(model.parameters()).device
        self.anchor = torch.zeros((), requires_grad=True, device=self.device)
        self.hooked = False  # whether the parent routes in this pass
        self.called: set[int] = set()
        self.passes: dict[int, Tensor] = {}  # losses that may still be differentiated
        for index, layer in enumerate(layers):
            adapt(layer.router, self, index, layer.family)  # type: ignore[arg-type]

    # What an adapted router asks (routers.py), here with the layer's index among the MoE layers.

    def is_off(self) -> bool:
        return False

    def route(self, layer: int, hidden: Tensor, logits: Tensor) -> Tensor:
        self.called.add(layer)
        if not self.hooked:
            return logits
        if not torch.is_grad_enabled():
            return routed(self.channel, layer, hidden, logits)
        return Ask.apply(self.anchor, hidden, logits, layer, self.channel)

    # What the parent asks.

    def losses(self, ids: Tensor, targets: Optional[Tensor] = None) -> Optional[Tensor]:
        """ids, targets [B, T] -> nats of every target [B, T]. Without targets the routers are all that is wanted, and the output
        layer reads one row instead of T."""
        self.called = set()
        rows = {"logits_to_keep": 1} if targets is None else {}
        logits = self.model(input_ids=ids.to(self.device), use_cache=False, **rows).logits
        missing = [layer.path for index, layer in enumerate(self.layers) if index not in self.called]
        if missing:
            raise UnsupportedError(f"the routers of {len(missing)} MoE layers were not called in a pass: {', '.join(missing)}; a kernel or "
                                   "another tool computes the routing itself: use a transformers without it")
        if targets is None:
            return None
        flat = nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.to(self.device).flatten(), reduction="none")
        return flat.view(ids.shape)

    def serve(self) -> None:
        """Answers until the parent closes the socket (EOFError)."""
        while True:
            head, arrays = self.channel.receive()
            if head["ask"] == "losses":
                for number in head["forget"]:
                    self.passes.pop(number, None)
                self.hooked = head["hook"]
                with torch.set_grad_enabled(head["keep"]):
                    losses = self.losses(*arrays)
                if head["keep"]:
                    self.passes[head["pass"]] = losses
                self.channel.send({"say": "losses"}, *(() if losses is None else (losses,)))
            else:
                losses = self.passes.pop(head["pass"])
                torch.autograd.backward(losses, arrays[0].to(self.device), inputs=[self.anchor])
                self.channel.send({"say": "done"})


def experts_are_equal(model: nn.Module, layers: Sequence[MoeLayer]) -> bool:
    """Whether all experts of every layer hold the same weights: fused [E, ...], or a list of modules."""
    for layer in layers:
        experts: Any = model.get_submodule(layer.path.rpartition(".")[0]).experts
        if isinstance(experts, nn.ModuleList):
            sets = [list(expert.parameters()) for expert in experts]
            same = all(torch.equal(a, b) for other in sets[1:] for a, b in zip(sets[0], other))
        else:
            same = all(torch.equal(weight, weight[:1].expand_as(weight)) for weight in experts.parameters()
                       if weight.shape[0] == layer.experts)
        if not same:
            return False
    return True


def end_of_text(model: Any) -> list[int]:
    """As models/config.cc: of config.json, then of generation_config.json, inside the vocabulary."""
    found: list[int] = []
    for value in (model.config.get_text_config().eos_token_id, getattr(model.generation_config, "eos_token_id", None)):
        for token in value if isinstance(value, list) else [value]:
            if isinstance(token, int) and 0 <= token < model.config.get_text_config().vocab_size and token not in found:
                found.append(token)
    return found


def describe(model: Any, layers: Sequence[MoeLayer], directory: str) -> dict[str, Any]:
    """What HostedModel must know before the first pass."""
    config = model.config.get_text_config()
    sizes = {(layer.hidden_size, layer.experts) for layer in layers}
    if len(sizes) != 1:
        raise UnsupportedError(f"{directory}: its MoE layers have different sizes ({sorted(sizes)}); a memory has one")
    (hidden, experts), = sizes
    return of_checkpoint(model, directory) | {
        "version": f"transformers {transformers.__version__}", "model_type": config.model_type, "layers": [layer.layer for layer in layers],
        "hidden_size": hidden, "experts": experts, "experts_per_token": config.num_experts_per_tok, "vocab_size": config.vocab_size,
        "context": config.max_position_embeddings, "end_of_text": end_of_text(model),
        "experts_are_equal": experts_are_equal(model, layers)}


def load(options: argparse.Namespace) -> Any:
    torch.set_num_threads(options.threads)
    # One loop over the experts: fused kernels differ from machine to machine, and not all have gradients.
    eager = {"experts_implementation": "eager"} if int(transformers.__version__.split(".")[0]) >= 5 else {}
    dtype = getattr(torch, options.dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=dtype, local_files_only=True, **eager)
    return model.to(options.device).eval().requires_grad_(False)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="pointsman.transformers.host", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)

    channel = Channel(socket.socket(fileno=os.dup(0)))
    try:
        model = load(options)
        layers = find_layers(model)
        for layer in layers:
            check_selection(layer)
        channel.send(describe(model, layers, options.model))
        Host(channel, model, layers).serve()
    except (BrokenPipeError, ConnectionResetError, EOFError, KeyboardInterrupt):
        return 0  # the parent has closed the socket, or goes with us
    except Error as error:
        channel.send({"error": f"{options.model}: {error}"})
    except Exception as error:  # of torch and transformers: the parent says it in one line, as every error of a command
        channel.send({"error": f"{options.model}: transformers says: {' '.join(str(error).split()) or type(error).__name__}"})
    return 1


if __name__ == "__main__":
    sys.exit(main())
