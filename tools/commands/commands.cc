// The list of sub-commands, in the order of the help.
#include <array>

#include "tools/command.h"

namespace pointsman {
namespace {

constexpr std::array kCommands = {
    Command{"probe", "how much better the frozen experts could do with other routing",
            "pointsman probe --model models/reference --corpus /usr/include/boost", RunProbe},
    Command{"plan", "predict the RAM, time and bytes of a build without doing it",
            "pointsman plan --model models/reference --corpus docs/ --max-tokens 100000", RunPlan},
    Command{"build", "build a routing memory from a corpus",
            "pointsman build --model models/reference --corpus docs/ notes.md --out build/memory\n"
            "  pointsman build --capture transformers --python .venv/bin/python --model mixtral/ --corpus docs/ --out "
            "memory",
            RunBuild},
    Command{
        "eval", "score a memory and its rivals on held-out text: the verdict",
        "pointsman eval --model models/reference --memory build/memory --corpus docs/ --require adopt\n"
        "  pointsman eval --capture transformers --python .venv/bin/python --model mixtral/ --memory memory --corpus "
        "docs/\n"
        "  pointsman eval --model models/reference --memory build/gsm8k --test-corpus test.jsonl --task exact\n"
        "  pointsman eval --model models/reference --memory build/code --test-corpus problems.jsonl --task code "
        "--test-command 'python3 program'",
        RunEval},
    Command{"generate", "continue a prompt, with or without a memory",
            "pointsman generate --model models/reference --memory build/memory --prompt 'class ' --explain\n"
            "  pointsman generate --model models/reference --prompt '6 * 7 = ' --answer-pattern '(\\d+)' "
            "--self-consistency 8 --temperature 0.7",
            RunGenerate},
    Command{"inspect", "what is in a memory", "pointsman inspect build/memory --layer 0", RunInspect},
    Command{"verify", "check every byte of a memory",
            "pointsman verify build/memory --repair\n"
            "  pointsman verify build/memory --host transformers --model models/reference\n"
            "  pointsman verify build/memory --host llamacpp --model models/reference --gguf build/reference.gguf",
            RunVerify},
    Command{"snapshot", "copy a memory as it stands now, while it is served or written",
            "pointsman snapshot build/memory --out backups/2026-01-31", RunSnapshot},
    Command{"restore", "put the memory of a snapshot in place, every byte checked",
            "pointsman restore backups/2026-01-31 --out build/memory", RunRestore},
    Command{"rollback", "publish the generation before again; once more returns",
            "pointsman rollback build/memory --generation 2", RunRollback},
    Command{"compact", "give back the space of what was deleted or overwritten", "pointsman compact build/memory",
            RunCompact},
    Command{"serve", "the REST server: OpenAI's API with memories, sessions and metrics",
            "pointsman serve --model models/reference --memory build/memory --port 8077\n"
            "  curl -s localhost:8077/v1/completions -H 'Content-Type: application/json' -d '{\"prompt\": \"class \"}'",
            RunServe},
    Command{"keys-new", "an API key for pointsman serve, shown once",
            "pointsman keys new --keys build/keys --name alice --access read-write", RunKeysNew},
    Command{"keys-list", "who has a key, and for what", "pointsman keys list --keys build/keys", RunKeysList},
    Command{"keys-revoke", "take a key out of the file; servers notice within seconds",
            "pointsman keys revoke --keys build/keys --key alice", RunKeysRevoke},
    Command{"docs-list", "the documents of a memory", "pointsman docs list build/memory --tag manual", RunDocsList},
    Command{"docs-add", "add documents to a memory without a rebuild",
            "pointsman docs add build/memory --model models/reference --corpus docs/new.md --tag manual --ttl 2592000",
            RunDocsAdd},
    Command{"docs-remove", "delete documents from a memory: their bytes and their entries",
            "pointsman docs remove build/memory --source docs/old.md\n"
            "  pointsman docs remove build/memory --expired",
            RunDocsRemove},
    Command{"bench-scan", "the exact search against this machine's memory bandwidth",
            "pointsman bench scan --keys 100000 --dim 64", RunBenchScan},
    Command{"bench-rewire", "the time that online rerouting adds to generation",
            "pointsman bench rewire --model models/reference", RunBenchRewire},
    Command{"study-rewire", "what the settings of online rerouting do to the text that follows",
            "pointsman study rewire --model models/reference --text headers=/usr/include/c++ --plot study.svg",
            RunStudyRewire},
    Command{"bench-route", "what routing costs beside one decode step of OLMoE-1B-7B's shape",
            "pointsman bench route --entries 100000 --prototypes 2048", RunBenchRoute},
    Command{"bench-hosts", "what a memory costs inside transformers, vLLM, llama.cpp and our own runtime",
            "pointsman bench hosts --batch 1,8 --threads 2", RunBenchHosts},
    Command{"bench-build", "the build against PyTorch scripts that make the same values",
            "pointsman bench build --model models/reference --corpus /usr/include/c++ --threads 2", RunBenchBuild},
    Command{"bench-daemon", "the server under load, and against a FastAPI service with faiss-cpu",
            "pointsman bench daemon --model models/reference --memory build/memory", RunBenchDaemon},
    Command{"config", "the options in force and where each came from; the output is a file for --config",
            "pointsman config > pointsman.toml", RunConfig},
};

}  // namespace

std::span<const Command> AllCommands() { return kCommands; }

}  // namespace pointsman
