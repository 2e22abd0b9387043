#include "tools/options.h"

#include <algorithm>
#include <array>
#include <cctype>

namespace pointsman {
namespace {

constexpr OptionKind kText = OptionKind::kText, kTexts = OptionKind::kTexts, kPath = OptionKind::kPath,
                     kPaths = OptionKind::kPaths, kNames = OptionKind::kNames, kInteger = OptionKind::kInteger,
                     kReal = OptionKind::kReal, kFlag = OptionKind::kFlag, kChoice = OptionKind::kChoice;

constexpr std::string_view kWithModel = "build eval probe plan generate docs-add bench-rewire study-rewire";
constexpr std::string_view kWithCorpus = "build eval probe plan";
constexpr std::string_view kBuilds = "build plan";
constexpr std::string_view kRewires = "generate eval bench-rewire study-rewire";
constexpr std::string_view kEverywhere = "*";

constexpr OptionSpec Option(std::string_view name, OptionKind kind, std::string_view commands,
                            std::string_view value_name, std::string_view fallback, std::string_view help) {
  OptionSpec option;
  option.name = name;
  option.kind = kind;
  option.commands = commands;
  option.value_name = value_name;
  option.fallback = fallback;
  option.help = help;
  return option;
}
constexpr OptionSpec Choice(std::string_view choices, OptionSpec option) {
  option.choices = choices;
  return option;
}
constexpr OptionSpec Within(double min, double max, OptionSpec option) {
  option.min = min;
  option.max = max;
  return option;
}
constexpr OptionSpec Required(OptionSpec option) {
  option.required = true;
  return option;
}
constexpr OptionSpec Positional(OptionSpec option) {
  option.positional = true;
  return Required(option);
}

constexpr double kLargest = 9e15;  // whole numbers up to here are exact in a double

constexpr std::array kOptions = {
    Positional(
        Option("memory", kPath, "inspect verify docs-list docs-add docs-remove", "MEM", "", "the memory's directory")),
    Positional(Option("memory", kPath, "snapshot rollback compact", "MEM", "", "the memory's directory")),
    Positional(Option("snapshot", kPath, "restore", "SNAPSHOT", "", "the snapshot's directory")),
    Required(Option("out", kPath, "snapshot", "DIR", "",
                    "the snapshot's directory, which is not there yet; its last part is the snapshot's name: a-z, 0-9, "
                    "'.', '_' and '-', 64 at most")),
    Required(Option("out", kPath, "restore", "MEM", "",
                    "the memory's directory; a memory that is there is replaced in one step")),
    Within(1, kLargest, Option("generation", kInteger, "rollback", "N", "", "a kept one; none = the one before")),
    Required(Option("model", kPath, kWithModel, "DIR", "",
                    "the model's directory: config.json, *.safetensors, tokenizer.json")),
    Required(Option("model", kPath, "serve", "DIR", "", "the model's directory")),

    Required(Option("corpus", kPaths, "probe docs-add", "PATH", "", "files or folders: .txt, .md, code, .jsonl")),
    Option("corpus", kPaths, "build plan", "PATH", "", "files or folders: .txt, .md, code, .jsonl; or --group"),
    Option("group", kTexts, "build plan eval", "NAME=PATH", "",
           "in place of --corpus, several times: domains that one memory holds; the context gate opens for each on its "
           "own evidence, each has an equal part of the budgets, its documents have NAME as a tag. A name that comes "
           "again has several paths"),
    Option("corpus", kPaths, "eval", "PATH", "",
           "files or folders; with --memory those it was built from: its test split is found in them"),
    Option("jsonl-fields", kNames, "build eval probe plan docs-add", "NAMES", "",
           "the fields of a .jsonl row that make its text, in this order; none = messages, prompt and completion, or "
           "text where there are such fields, else all texts of the row"),
    Option("split-by-library", kFlag, kWithCorpus, "", "",
           "split by top folder: train on some libraries, test on others"),
    Required(Option("out", kPath, "build", "MEM", "", "the memory's directory, made if it is not there")),
    Option("memory", kPath, "eval generate study-rewire", "MEM", "",
           "a memory that was built for this model; none = the frozen router"),
    Option("test-corpus", kPaths, "eval", "PATH", "",
           "score on these files instead of the test split; all of them are test"),
    Option("off-domain", kPaths, "build eval plan", "PATH", "",
           "unrelated text that must come out unchanged; none = documentation, licences and library sources found on "
           "this machine"),
    Choice("auto entries prototypes",
           Option("kind", kChoice, kBuilds, "KIND", "auto",
                  "store an entry per token, trained prototypes, or what gains more per byte")),
    Choice("default fast knn", Option("preset", kChoice, kBuilds, "NAME", "default",
                                      "how values are made; knn is the published kNN-MoE recipe and forces entries")),
    Choice("delta logits assignments", Option("blend", kChoice, kBuilds, "RULE", "delta",
                                              "what a value says: a change of router logits, logits, or expert "
                                              "assignments; the last two need --preset knn")),
    Choice("auto exact", Option("index", kChoice, kBuilds, "INDEX", "auto",
                                "how neighbours are found; auto is exact in this version")),
    Option("layers", kText, kBuilds, "LIST", "auto", "which MoE layers: auto, all, or numbers such as 0,3,5"),
    Within(1, kLargest,
           Option("max-tokens", kInteger, kWithCorpus, "N", "100000",
                  "tokens of the reference split at most; time and bytes grow with it")),
    Within(1, kLargest,
           Option("max-test-tokens", kInteger, kWithCorpus, "N", "60000", "tokens of the test split at most")),
    Within(1, kLargest, Option("max-tokens", kInteger, "generate", "N", "64", "new tokens at most")),
    Within(1, 1e6, Option("max-tokens", kInteger, "bench-rewire", "N", "128", "new tokens")),
    Within(1, 1e6, Option("prompt-tokens", kInteger, "bench-rewire", "N", "64", "tokens of the prompt")),
    Within(1, 1000, Option("runs", kInteger, "bench-rewire", "N", "7", "pairs of runs; medians are printed")),
    Within(1, kLargest,
           Option("sample-tokens", kInteger, "probe", "N", "4096", "tokens to measure on, a piece of many documents")),
    Within(0, kLargest,
           Option("seed", kInteger, kWithModel, "N", "0",
                  "of the split, the training and the sampling; equal seeds give equal results")),
    Choice("runtime transformers",
           Option("capture", kChoice, "build eval", "ENGINE", "runtime",
                  "what computes the model: our own runtime, or transformers in a child process, for families that the "
                  "runtime does not have: mixtral, qwen2_moe, qwen3_moe, gpt_oss, deepseek_v2")),
    Option("device", kText, "build eval", "DEVICE", "cpu", "of --capture transformers: where, as torch names it"),
    Option("resume", kFlag, "build", "", "",
           "go on with an interrupted build in --out; what it made of other settings is not used"),
    Option("output-memory", kFlag, kBuilds, "", "",
           "keep each reference token's next token, too, and let similar ones vote on the output (kNN-LM), under the "
           "same gate; about 80 bytes a token"),
    Option("no-text", kFlag, kBuilds, "", "",
           "do not keep token ids: no excerpts, no rebuild, no variants that train from this memory"),
    Option("no-text", kFlag, "eval", "", "", "the report shows no text of documents: no examples"),
    Option("variants", kNames, "eval", "NAMES", "frozen,bias,router_finetune,knn,memory",
           "all, or a comma-separated list"),
    Within(0, 100,
           Option("min-gain", kReal, "build eval probe", "NATS", "0.01",
                  "adopt asks for more gain than this, in nats per token; probe says when less is to be had")),
    Within(0, 100,
           Option("damage-bound", kReal, "build eval", "NATS", "0.002",
                  "adopt asks for less damage on unrelated text than this, in nats per token")),
    Within(1, 20,
           Option("seeds", kInteger, "eval", "N", "1",
                  "train every trained variant, and the memory's kind, with N seeds; the report gives means, and "
                  "intervals that hold the differences between seeds")),
    Within(0, 10000,
           Option("generations", kInteger, "eval", "N", "0",
                  "continue N test documents with frozen, memory and the variants with an output memory, and "
                  "compare with how they go on; 0 = off")),
    Within(0, 100,
           Option("generation-temperature", kReal, "eval", "T", "0.8",
                  "of a second continuation, sampled; the first is greedy")),
    Option("report", kPath, "eval", "FILE", "", "write the report as one HTML page, too"),
    Choice("adopt", Option("require", kChoice, "eval", "VERDICT", "", "exit with 3 unless this is the verdict")),
    Required(Option("prompt", kText, "generate", "TEXT", "", "the text to go on from; - reads it from standard input")),
    Within(0, 1, Option("strength", kReal, "generate", "S", "1", "scales the memory's change; 0 = the frozen router")),
    Within(0, 100,
           Option("temperature", kReal, kRewires, "T", "0",
                  "of the sampling (in eval: of a task's answers); 0 = always the likeliest token")),
    Within(0, 1,
           Option("top-p", kReal, kRewires, "P", "1",
                  "sample from the likeliest tokens that together have this probability")),
    Option("stop", kTexts, kRewires, "TEXT", "",
           "stop before this text (in eval: a task's answers); may be given several times"),
    Option("explain", kFlag, "generate", "", "",
           "per new token: the gate, and the documents whose entries moved which experts"),
    Option("digest", kFlag, "inspect", "", "",
           "only the digest of what the memory routes with: equal builds have equal digests"),
    Option("document", kText, "inspect", "NAME", "", "one document, by its source or its 16-digit hash"),
    Option("document", kTexts, "docs-remove", "HASH", "",
           "a document by its 16-digit hash; may be given several times"),
    Option("source", kTexts, "docs-remove", "NAME", "",
           "the document of this source, as docs list prints it; may be given several times"),
    Option("tag", kTexts, "docs-remove", "TAG", "", "all documents with this tag; may be given several times"),
    Option("expired", kFlag, "docs-remove", "", "", "all documents whose time has passed (docs add --ttl)"),
    Option("snapshots", kPath, "docs-remove", "DIR", "",
           "where the memory's snapshots are: those that still hold a removed document are listed"),
    Option("dry-run", kFlag, "docs-remove", "", "", "say what would go, change nothing"),
    Option("tag", kTexts, "docs-add", "TAG", "",
           "of the new documents; may be given several times; one that names a group of the memory puts them there, "
           "else they join the group that they are most like"),
    Within(1, 1e10,
           Option("ttl", kInteger, "docs-add", "S", "",
                  "seconds after which docs remove --expired takes the new documents; none = never")),
    Option("name", kText, "docs-add", "NAME", "", "the source of the one new document; none = its path"),
    Option("off-domain", kPaths, "docs-add", "PATH", "",
           "unrelated text, to tell common token pairs by; none = the build's, if it is still there"),
    Option("tag", kTexts, "docs-list", "TAG", "", "only documents with this tag; several: with any of them"),
    Within(0, 65535,
           Option("layer", kInteger, "inspect", "N", "",
                  "one layer: sizes, calibration, and which experts its values raise and lower")),
    Option(
        "rewire", kFlag, "generate", "", "",
        "online rerouting: learn one vector a layer from the text so far, before the prompt is read and again later"),
    Within(0, 1000,
           Option("rewire-steps", kInteger, kRewires, "N", "1", "online rerouting: steps each time it learns")),
    Within(1e-6, 10, Option("rewire-lr", kReal, kRewires, "RATE", "0.03", "online rerouting: how far a step goes")),
    Within(1, 1e6,
           Option("rewire-interval", kInteger, "generate eval bench-rewire", "N", "128",
                  "online rerouting: learn again every N new tokens")),
    Option(
        "rewire-layers", kText, kRewires, "WHICH", "all",
        "online rerouting: all, or last, most-confident, least-confident with a count, such as last:3; soft-most and "
        "soft-least scale every layer's step by its confidence"),
    Option("rewire-guard", kText, kRewires, "NATS", "off",
           "online rerouting: keep what was learned only if it lowers the loss on the text's last quarter by more than "
           "this; off = always"),
    Option("rewire-stop", kText, kRewires, "NATS", "off",
           "online rerouting: no further steps after one that lowers the loss by less than this, and one that raises "
           "it is "
           "taken back; off = all of --rewire-steps"),
    Required(Option("text", kTexts, "study-rewire", "NAME=PATH", "",
                    "a text of one kind; may be given several times, a name that comes again has several paths")),
    Within(1, 10000, Option("windows", kInteger, "study-rewire", "N", "48", "windows of each text at most")),
    Option("groups", kNames, "study-rewire", "NAMES", "all", "which settings to vary, from the table's first column"),
    Option("plot", kPath, "study-rewire", "FILE", "", "write the plot, SVG"),
    Choice(
        "adam evidence agreement",
        Option("rewire-rule", kChoice, kRewires, "RULE", "agreement",
               "online rerouting: Adam moves every expert alike; evidence moves one as far as the text's tokens agree "
               "on it; agreement is evidence scaled by how far the text's two halves agree")),
    Option("session", kPath, "generate", "FILE", "",
           "online rerouting goes on from the vectors in this file, if it is there, and writes the last ones to it"),
    Choice("keep recompute",
           Option("rewire-kv", kChoice, "generate eval bench-rewire", "HOW", "keep",
                  "online rerouting: cached keys and values of earlier text stay, or are computed anew")),
    Option("memory", kTexts, "serve", "[ID=]MEM", "",
           "a memory to serve, under this id (else its directory's name); may be given several times"),
    Option("default-memory", kText, "serve", "ID", "",
           "the memory of requests that name none; none = the first --memory, `frozen` = the frozen router"),
    Option("address", kText, "serve", "IP", "127.0.0.1",
           "where to listen; a public address needs --keys. `none` = only --unix-socket"),
    Within(0, 65535, Option("port", kInteger, "serve", "N", "8077", "the port; 0 = any free one")),
    Option("unix-socket", kPath, "serve", "FILE", "", "also listen on this socket; its mode is 0660"),
    Option("tls-certificate", kPath, "serve", "FILE", "", "PEM chain: TLS on the port, with --tls-key"),
    Option("tls-key", kPath, "serve", "FILE", "", "PEM key of --tls-certificate"),
    Option(
        "keys", kPath, "serve", "FILE", "",
        "API keys (pointsman keys new); read again when the file changes. none = everybody on the loopback address is "
        "the administrator"),
    Required(Option("keys", kPath, "keys-new", "FILE", "", "the key file, made if it is not there")),
    Required(Option("keys", kPath, "keys-list keys-revoke", "FILE", "", "the key file")),
    Required(Option("key", kText, "keys-revoke", "NAME", "", "a holder's name: all keys of it; or one key's id")),
    Required(Option("name", kText, "keys-new", "NAME", "", "who holds the key: in logs, and owner of sessions")),
    Choice("read-only read-write admin",
           Option("access", kChoice, "keys-new", "LEVEL", "read-only", "what the key may do")),
    Option("memories", kNames, "keys-new", "IDS", "", "the key sees these memories only; none = all"),
    Option(
        "chat-template", kText, "serve", "FILE", "",
        "renders chats in place of the model's own template; `default` = plain text, `User: ` and `Assistant: `. none "
        "= the model's own, or the default where it has none"),
    Option("shadow", kFlag, "serve", "", "", "compute and count everything, change nothing"),
    Option("follow", kFlag, "serve", "", "",
           "put a memory's new generation in place when another process publishes it"),
    Option("allow-rejected", kFlag, "serve", "", "", "load memories whose verdict is reject, too"),
    Choice("mmap ram",
           Option("load", kChoice, "serve", "HOW", "mmap",
                  "memories are mapped, or copied and checked up front: for those who fear a failing disk")),
    Option("memory-root", kPath, "serve", "DIR", "",
           "administrators may load memories below this directory while the server runs; none = at its start only"),
    Option("jobs", kPath, "serve", "DIR", "",
           "run builds and evaluations that clients ask for, as processes of their own; what they need is kept here, "
           "and goes on after a restart; none = no jobs"),
    Option("corpus-root", kPath, "serve", "DIR", "",
           "jobs may read texts below this directory; none = only those that come with them"),
    Within(1, 1024, Option("jobs-running", kInteger, "serve", "N", "1", "jobs that run at once at most")),
    Within(0, 10000, Option("jobs-queued", kInteger, "serve", "N", "8", "jobs that wait at most; more get 429")),
    Within(
        0.01, 1e6,
        Option("job-memory-gb", kReal, "serve", "GB", "",
               "address space of a job's process, mapped files included; one that needs more fails; none = no limit")),
    Option(
        "snapshots", kPath, "serve", "DIR", "",
        "snapshots of memories lie below this directory, and clients may take, download and restore them; none = they "
        "may not"),
    Within(1, 1024, Option("slots", kInteger, "serve", "N", "16", "requests that share a forward pass at most")),
    Within(0, 100000,
           Option("waiting", kInteger, "serve", "N", "64", "requests that wait for a slot at most; more get 503")),
    Within(1, 4096,
           Option("compute-threads", kInteger, "serve", "N", "2",
                  "for searches and /v1/route, beside the model's own threads")),
    Within(0, 60000,
           Option("route-wait", kReal, "serve bench-daemon", "MS", "0.5",
                  "milliseconds that a request of /v1/route waits for a compute thread at most; what would wait longer "
                  "gets 503")),
    Within(1, 64, Option("network-threads", kInteger, "serve", "N", "1", "for connections")),
    Within(1, 1e6, Option("connections", kInteger, "serve", "N", "1024", "open connections at most")),
    Within(1, 1e6,
           Option("requests-in-flight", kInteger, "serve", "N", "256", "requests that run at most; more get 503")),
    Within(1, 1e6,
           Option("requests-per-key", kInteger, "serve", "N", "64",
                  "requests of one key that run at most; more get 429")),
    Within(1024, 1e10, Option("body-bytes", kInteger, "serve", "N", "33554432", "of a request's body at most")),
    Within(1, 1e6, Option("sessions", kInteger, "serve", "N", "1024", "adaptation sessions at most")),
    Within(1, 1e9,
           Option("session-idle", kInteger, "serve", "S", "3600", "seconds after which an unused session ends")),
    Within(1, 86400,
           Option("expiry-interval", kInteger, "serve", "S", "60",
                  "seconds between looks for documents whose time has passed (docs add --ttl)")),
    Within(0, 86400,
           Option("drain-timeout", kReal, "serve", "S", "30", "after SIGTERM: seconds for running requests to finish")),
    Choice("text json", Option("log-format", kChoice, "serve", "FORM", "text", "of the log's lines")),
    Choice("debug info warning error",
           Option("log-level", kChoice, "serve", "LEVEL", "info", "debug has a line for every request")),
    Option("log-file", kPath, "serve", "FILE", "", "none = standard error"),
    Option("audit-log", kPath, "serve", "FILE", "", "who changed what, one JSON line each; none = in the log"),
    Choice("none auto exact choice code",
           Option("task", kChoice, "eval", "KIND", "none",
                  "also score answers to the rows of a .jsonl test split: auto tells by the row, exact compares final "
                  "answers, choice takes the likeliest, code runs --test-command on what was written")),
    Option("task-fields", kNames, "eval", "PAIRS", "",
           "where a row has what, such as prompt=question,answer=answer,choices=options,test=test; none = these names"),
    Option("answer-pattern", kText, "eval generate", "RE", "",
           "a PCRE2 pattern whose first group is the final answer; none = '#### (-?[0-9.,]+)' in eval"),
    Within(1, 1e6, Option("task-items", kInteger, "eval", "N", "200", "items of the task at most")),
    Within(1, kLargest, Option("task-tokens", kInteger, "eval", "N", "128", "new tokens of an answer at most")),
    Option("task-strengths", kNames, "eval", "LIST", "",
           "ask the memory at these strengths, too: 0.25,0.5; for the task only"),
    Within(1, 1024,
           Option("self-consistency", kInteger, kRewires, "N", "1",
                  "take the final answer that most of N samples give (seeds --seed, --seed + 1, ...); needs a "
                  "--temperature above 0, and in generate an --answer-pattern")),
    Option(
        "test-command", kText, "eval", "CMD", "",
        "of --task code: run by /bin/sh for each completion, 0 = passed; its directory has the files program (prompt, "
        "completion and test), prompt, completion and test. It runs isolated: no network, files read-only, no /home"),
    Within(0.1, 3600, Option("test-timeout", kReal, "eval", "S", "10", "of --test-command: seconds at most")),
    Within(16, 1e6,
           Option("test-memory", kInteger, "eval", "MIB", "1024", "of --test-command: memory of a process at most")),
    Option("test-unsafe", kFlag, "eval", "", "",
           "of --test-command: run what the model wrote without isolation, with your own rights and network"),
    Option("repair", kFlag, "verify", "", "", "rebuild missing or damaged derived files from the truth"),
    Choice("transformers vllm llamacpp",
           Option("host", kChoice, "verify", "NAME", "",
                  "read the memory's held-out text in our runtime and on this installation of a host, and compare what "
                  "the routers did; none = check the files")),
    Option("model", kPath, "verify", "DIR", "", "of --host: the model's directory"),
    Option("gguf", kPath, "verify", "FILE", "", "of --host llamacpp: the same model"),
    Option(
        "half-cache", kFlag, "verify", "", "",
        "of --host llamacpp: keys and values in fp16, as llama.cpp has them unless told otherwise; without: fp32, as "
        "our runtime"),
    Choice("float32 bfloat16", Option("dtype", kChoice, "build eval verify", "TYPE", "float32",
                                      "of --capture transformers and --host: the weights' type there")),
    Within(1, 1e9, Option("max-tokens", kInteger, "verify", "N", "2048", "of --host: tokens of text at most")),
    Option("python", kText, "build eval verify", "PROGRAM", "python3",
           "of --capture transformers and --host: the Python that has it installed"),
    Within(1000, 1e8, Option("keys", kInteger, "bench-scan", "N", "100000", "rows to scan")),
    Within(1, 8192, Option("dim", kInteger, "bench-scan", "D", "64", "dimensions of a key")),
    Within(1, 65536,
           Option("batch", kInteger, "bench-scan", "N", "16",
                  "queries a call in the batched runs; single queries are always measured")),
    Choice("olmoe-1b-7b small", Option("shape", kChoice, "bench-route bench-hosts", "NAME", "olmoe-1b-7b",
                                       "the model's shape, with random weights; the first needs 4 GB")),
    Within(1, 256,
           Option("layers", kInteger, "bench-route bench-hosts", "N", "",
                  "MoE layers (vllm: 2 at most); none = the shape's own")),
    Within(64, 1e8, Option("entries", kInteger, "bench-route bench-hosts", "N", "100000", "entries a layer")),
    Within(64, 1e7, Option("prototypes", kInteger, "bench-route", "N", "2048", "prototypes a layer")),
    Within(1, 1e6, Option("context", kInteger, "bench-route", "N", "1024", "tokens before the decoded one")),
    Option("hosts", kNames, "bench-hosts", "NAMES", "runtime,transformers",
           "which, with commas between: runtime, transformers, vllm, llama.cpp"),
    Option("batch", kNames, "bench-hosts", "LIST", "1,8,32", "sequences of a pass, of transformers and vllm"),
    Within(1, 1e6, Option("prompt-tokens", kInteger, "bench-hosts", "N", "64", "tokens before the decoded one")),
    Choice("float32 bfloat16",
           Option("dtype", kChoice, "bench-hosts", "TYPE", "float32", "of the weights of transformers and vllm")),
    Option("gguf", kPath, "bench-hosts", "FILE", "", "llama.cpp's model"),
    Within(1, 1000, Option("rounds", kInteger, "bench-hosts", "N", "7", "pairs of passes; medians are compared")),
    Within(1, 1000, Option("rounds", kInteger, "bench-route", "N", "9", "medians are over so many rounds")),
    Required(Option("model", kPath, "bench-build", "DIR", "", "the model's directory")),
    Required(Option("corpus", kPaths, "bench-build", "PATH", "", "files or folders: .txt, .md, code, .jsonl")),
    Choice("prototypes knn",
           Option("values", kChoice, "bench-build", "KIND", "prototypes",
                  "what is built: prototypes trained through the loss, or the published kNN-MoE recipe's entries")),
    Within(512, kLargest,
           Option("max-tokens", kInteger, "bench-build", "N", "8000", "tokens of the reference split at most")),
    Within(2, 1e6, Option("prototypes", kInteger, "bench-build", "N", "512", "prototypes a layer")),
    Within(1, 1000, Option("rounds", kInteger, "bench-build", "N", "3", "medians are over so many rounds")),
    Within(0, kLargest, Option("seed", kInteger, "bench-build", "N", "0", "of the split and the training")),
    Option("parts", kNames, "bench-daemon", "NAMES", "route,overload,loris,generate",
           "what to measure: route (against FastAPI), overload, loris (slow clients), generate"),
    Required(Option("model", kPath, "bench-daemon", "DIR", "", "the model that generates")),
    Option("memory", kPath, "bench-daemon", "MEM", "", "generate with this memory; none = frozen"),
    Within(64, 1e8, Option("entries", kInteger, "bench-daemon", "N", "100000", "entries of the layer that is routed")),
    Within(1, 1024, Option("rows", kInteger, "bench-daemon", "N", "16", "rows of a request to /v1/route")),
    Within(1, 1024, Option("connections", kInteger, "bench-daemon", "N", "8", "that load /v1/route")),
    Within(1, 10000, Option("slow-connections", kInteger, "bench-daemon", "N", "200", "of the part loris")),
    Within(1, 1e6, Option("max-tokens", kInteger, "bench-daemon", "N", "128", "new tokens of a completion")),
    Within(0.1, 3600, Option("seconds", kReal, "bench-daemon", "S", "5", "of each measurement")),
    Within(1, 1000, Option("rounds", kInteger, "bench-daemon", "N", "3", "both sides in turn; medians are printed")),
    Option("python", kPath, "bench-build bench-daemon bench-hosts", "FILE", ".venv/bin/python",
           "runs the rivals; tools/setup bench makes it"),
    Option("vllm-python", kPath, "bench-hosts", "FILE", ".venv-vllm/bin/python",
           "runs vllm; tools/setup vllm makes it"),
    Option("scripts", kPath, "bench-build bench-daemon bench-hosts", "DIR", "tools/bench", "where the rivals are"),
    Within(1, 4096,
           Option("threads", kInteger, "bench-route bench-build bench-hosts", "N", "1", "threads, of every side")),
    Within(0, 4096,
           Option("threads", kInteger, "serve bench-daemon", "N", "0",
                  "threads of the model's forward passes; 0 = one a core")),
    Within(0, 4096,
           Option("threads", kInteger, kWithModel, "N", "0",
                  "threads to compute with; 0 = one a core. The result does not depend on it")),
    Choice("auto json", Option("progress", kChoice, "build eval probe docs-add", "STYLE", "auto",
                               "on standard error: auto is a bar on a terminal and plain lines elsewhere; json is for "
                               "programs, a line of JSON about every half second")),
    Option("config", kPath, kEverywhere, "FILE", "", "a TOML file with these options; pointsman config prints one"),
    Option("json", kFlag, kEverywhere, "", "", "one JSON document on standard output"),
};

}  // namespace

std::span<const OptionSpec> AllOptions() { return kOptions; }

bool BelongsTo(const OptionSpec& option, std::string_view command_key) {
  if (option.commands == kEverywhere) return true;
  const std::vector<std::string> keys = Split(option.commands, ' ');
  return std::find(keys.begin(), keys.end(), command_key) != keys.end();
}

std::vector<const OptionSpec*> OptionsOf(std::string_view command_key) {
  std::vector<const OptionSpec*> found;
  for (const OptionSpec& option : kOptions) {
    if (BelongsTo(option, command_key)) found.push_back(&option);
  }
  return found;
}

std::string EnvironmentName(const OptionSpec& option) {
  std::string name = "POINTSMAN_";
  for (const char c : option.name)
    name += c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

std::vector<std::string> Split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t end = text.find(separator);
    if (end != 0) parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return parts;
}

}  // namespace pointsman
