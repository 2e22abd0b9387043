#include "adapt/hosted_model.h"

#include <ATen/Functions.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <cstdlib>
#include <mutex>
#include <optional>
#include <utility>

#include "adapt/host_process.h"
#include "memory/hash.h"
#include "models/fingerprint.h"
#include "models/safetensors.h"

namespace pointsman {
namespace {

using torch::autograd::variable_list;

constexpr const char* kRemedy =
    "it needs a Python with transformers: run `pip install 'pointsman[transformers]'` there and name it with --python";

// One layer of a pass: what the hook was given, and what it made of that. Leaves, where gradients are recorded.
struct Routed {
  at::Tensor hidden, logits, changed;
};

bool HasShape(const HostMessage& message, std::vector<std::vector<int64_t>> shapes) {
  if (message.arrays.size() != shapes.size()) return false;
  for (size_t i = 0; i < shapes.size(); ++i) {
    if (message.arrays[i].scalar_type() != at::kFloat || message.arrays[i].sizes() != shapes[i]) return false;
  }
  return true;
}

std::string TextOf(const nlohmann::json& head, const char* name) {
  const auto found = head.find(name);
  return found != head.end() && found->is_string() ? found->get<std::string>() : std::string();
}

int64_t NumberOf(const nlohmann::json& head, const char* name) {
  const auto found = head.find(name);
  return found != head.end() && found->is_number_integer() ? found->get<int64_t>() : -1;
}

}  // namespace

// The process and what it holds for us; the first failure ends all further talk.
class HostedModel::Channel {
 public:
  explicit Channel(std::unique_ptr<HostProcess> process) : process_(std::move(process)) {}

  Status status() const {
    const std::scoped_lock lock(mutex_);
    return status_;
  }

  Result<HostMessage> Hello() {
    const std::scoped_lock lock(mutex_);
    return Receive();
  }

  // Losses [B, T]; undefined after a failure, and where `targets` are undefined. `keep`: the pass stays differentiable
  // there, as number `pass`.
  at::Tensor Run(uint64_t pass, const at::Tensor& ids, const at::Tensor& targets, RoutingHook* hook, bool keep,
                 const MoeConfig& config, std::vector<Routed>* layers) {
    const std::scoped_lock lock(mutex_);
    const int64_t rows = ids.numel();
    std::vector<at::Tensor> asked{ids};
    if (targets.defined()) asked.push_back(targets);
    if (!Send({{{"ask", "losses"},
                {"pass", pass},
                {"hook", hook != nullptr},
                {"keep", keep},
                {"forget", TakeForgotten()}},
               std::move(asked)})) {
      return {};
    }
    for (;;) {
      Result<HostMessage> message = Receive();
      if (!message.ok()) return {};
      HostMessage& told = message.value();
      if (TextOf(told.head, "say") == "losses") {
        if (!targets.defined()) return told.arrays.empty() ? at::Tensor() : Broken();
        if (!HasShape(told, {ids.sizes().vec()})) return Broken();
        return told.arrays[0];
      }
      const int64_t layer = NumberOf(told.head, "layer");
      if (TextOf(told.head, "say") != "route" || hook == nullptr || layer < 0 || layer >= config.num_layers ||
          !HasShape(told, {{rows, config.hidden_size}, {rows, config.num_experts}})) {
        return Broken();
      }
      Routed routed{told.arrays[0].set_requires_grad(keep), told.arrays[1].set_requires_grad(keep), {}};
      routed.changed = hook->Route(static_cast<int>(layer), routed.hidden, routed.logits);
      // A hook may also write in place, where no gradient is recorded: then the tensor is the same, its values are not.
      const bool unchanged = keep && routed.changed.is_same(routed.logits);
      if (!Send({nlohmann::json::object(),
                 unchanged ? std::vector<at::Tensor>() : std::vector<at::Tensor>{routed.changed}})) {
        return {};
      }
      if (layers) layers->push_back(std::move(routed));
    }
  }

  // The gradient of each layer's changed logits, undefined after a failure.
  variable_list Differentiate(uint64_t pass, const at::Tensor& gradient, const std::vector<Routed>& layers) {
    const std::scoped_lock lock(mutex_);
    variable_list result(layers.size());
    if (!Send({{{"ask", "backward"}, {"pass", pass}}, {gradient}})) return result;
    for (;;) {
      Result<HostMessage> message = Receive();
      if (!message.ok()) return result;
      HostMessage& told = message.value();
      if (TextOf(told.head, "say") == "done") return result;
      const int64_t index = NumberOf(told.head, "layer");
      if (TextOf(told.head, "say") != "gradient" || index < 0 || index >= static_cast<int64_t>(layers.size()) ||
          !HasShape(told, {layers[index].changed.sizes().vec()})) {
        Broken();
        return result;
      }
      const Routed& layer = layers[index];
      result[index] = told.arrays[0];
      variable_list inputs;
      if (told.head.value("hidden", false)) inputs.push_back(layer.hidden);
      if (told.head.value("logits", false)) inputs.push_back(layer.logits);
      variable_list gradients;
      if (!inputs.empty()) {
        // The graph is kept: the caller's own pass through it gives the gradients of the hook's parameters.
        gradients = torch::autograd::grad({layer.changed}, inputs, {told.arrays[0]}, /*retain_graph=*/true,
                                          /*create_graph=*/false, /*allow_unused=*/true);
      }
      for (size_t i = 0; i < gradients.size(); ++i) {
        if (!gradients[i].defined()) gradients[i] = at::zeros_like(inputs[i]);
      }
      if (!Send({nlohmann::json::object(), std::move(gradients)})) return result;
    }
  }

  // The pass will not be differentiated (any more). Told with the next request.
  void Forget(uint64_t pass) {
    const std::scoped_lock lock(notes_);
    forgotten_.push_back(pass);
  }

  uint64_t NewPass() {
    const std::scoped_lock lock(notes_);
    return ++passes_;
  }

 private:
  std::vector<uint64_t> TakeForgotten() {
    const std::scoped_lock lock(notes_);
    return std::exchange(forgotten_, {});
  }
  bool Send(HostMessage message) {
    if (status_.ok()) status_ = process_->Send(std::move(message));
    return status_.ok();
  }
  Result<HostMessage> Receive() {
    if (!status_.ok()) return status_.error();
    Result<HostMessage> message = process_->Receive();
    if (!message.ok()) {
      status_ = message.error();
    } else if (const std::string problem = TextOf(message.value().head, "error"); !problem.empty()) {
      status_ = Error{ErrorCode::kUnsupported, problem};
      return status_.error();
    }
    return message;
  }
  at::Tensor Broken() {
    status_ = Error{ErrorCode::kInternal,
                    "the host sent an answer of another shape than the model's: the Python package is of another "
                    "version than this program; install both from the same sources"};
    return {};
  }

  mutable std::mutex mutex_;  // held while a pass or a gradient is under way
  std::unique_ptr<HostProcess> process_;
  Status status_;
  std::mutex notes_;  // of the following; a graph may be freed while a pass is under way
  std::vector<uint64_t> forgotten_;
  uint64_t passes_ = 0;
};

namespace {

// What differentiates a pass: its inputs are the layers' changed logits, its output the losses.
class PassBackward : public torch::autograd::Node {
 public:
  PassBackward(std::shared_ptr<HostedModel::Channel> channel, uint64_t pass, std::vector<Routed> layers)
      : channel_(std::move(channel)), pass_(pass), layers_(std::move(layers)) {}
  ~PassBackward() override { channel_->Forget(pass_); }

  variable_list apply(variable_list&& gradients) override {
    if (!gradients[0].defined()) return variable_list(layers_.size());
    return channel_->Differentiate(pass_, gradients[0], layers_);
  }

 private:
  std::shared_ptr<HostedModel::Channel> channel_;
  uint64_t pass_;
  std::vector<Routed> layers_;
};

// Losses after a failure: a constant that may be differentiated all the same, so that the job runs to where it asks
// for the status.
at::Tensor NoLosses(const at::Tensor& ids) {
  return at::zeros(ids.sizes(), at::kFloat).set_requires_grad(at::GradMode::is_enabled());
}

}  // namespace

HostedModel::HostedModel() = default;
HostedModel::~HostedModel() = default;

Status HostedModel::status() const { return channel_->status(); }

at::Tensor HostedModel::Losses(const at::Tensor& ids, const at::Tensor& targets, RoutingHook* hook,
                               const std::vector<uint32_t>& slots) const {
  const bool keep = hook != nullptr && targets.defined() && at::GradMode::is_enabled();
  if (hook) {
    StepInfo step = DescribeStep(ids, slots, /*past=*/0);
    step.layer_numbers = layer_numbers_;
    hook->BeginStep(step);
  }
  const uint64_t pass = channel_->NewPass();
  std::vector<Routed> layers;
  at::Tensor losses = channel_->Run(pass, ids, targets, hook, keep, config_, keep ? &layers : nullptr);
  if (!targets.defined()) return {};
  if (!losses.defined()) return NoLosses(ids);
  if (!keep) return losses;
  variable_list changed;
  for (const Routed& layer : layers) changed.push_back(layer.changed);
  torch::autograd::edge_list edges = torch::autograd::collect_next_edges(changed);
  const auto node = c10::make_intrusive<PassBackward>(channel_, pass, std::move(layers));
  node->set_next_edges(std::move(edges));
  torch::autograd::set_history(losses, node);
  return losses;
}

Status HostedModel::ReadHello(const std::filesystem::path& directory, const HostOptions& options) {
  const Result<HostMessage> hello = channel_->Hello();
  if (!hello.ok()) {
    if (hello.error().code == ErrorCode::kUnsupported) return hello.error();  // said by the host, with its remedy
    return Error{hello.error().code, hello.error().message + "; " + kRemedy};
  }
  const nlohmann::json& head = hello.value().head;
  const auto layers = head.find("layers");
  if (layers == head.end() || !layers->is_array()) {
    return Error{ErrorCode::kInternal, options.python + ": not the host of this program; " + kRemedy};
  }
  for (const nlohmann::json& layer : *layers) layer_numbers_.push_back(layer.is_number() ? layer.get<int>() : -1);
  config_.model_type = TextOf(head, "model_type");
  config_.vocab_size = NumberOf(head, "vocab_size");
  config_.hidden_size = NumberOf(head, "hidden_size");
  config_.num_layers = static_cast<int64_t>(layer_numbers_.size());
  config_.num_experts = NumberOf(head, "experts");
  config_.experts_per_token = NumberOf(head, "experts_per_token");
  config_.max_positions = NumberOf(head, "context");
  for (const nlohmann::json& id : head.value("end_of_text", nlohmann::json::array())) {
    if (id.is_number_integer()) config_.eos_token_ids.push_back(id.get<int64_t>());
  }
  experts_are_equal_ = head.value("experts_are_equal", false);
  version_ = TextOf(head, "version");
  fingerprint_.architecture = config_.model_type;
  fingerprint_.config_sha256 = TextOf(head, "config_sha256");
  fingerprint_.router_sha256 = TextOf(head, "router_sha256");
  fingerprint_.dtype = TextOf(head, "dtype");
  if (config_.vocab_size < 1 || config_.hidden_size < 1 || config_.num_layers < 1 || config_.num_experts < 1 ||
      config_.experts_per_token < 1 || config_.max_positions < 1) {
    return Error{ErrorCode::kUnsupported, directory.string() + ": the host tells no sizes of this model; " + kRemedy};
  }
  return {};
}

Result<std::unique_ptr<HostedModel>> HostedModel::Start(const std::filesystem::path& directory,
                                                        const HostOptions& options, int threads) {
  std::unique_ptr<HostedModel> model(new HostedModel());
  POINTSMAN_TRY(model->tokenizer_, Tokenizer::Load(directory / "tokenizer.json"));
  const char* path = std::getenv("PYTHONPATH");
  std::vector<std::string> environment;
  if (!options.package.empty()) {
    environment.push_back("PYTHONPATH=" + options.package + (path && *path ? std::string(":") + path : ""));
  }
  Result<std::unique_ptr<HostProcess>> process =
      HostProcess::Start({options.python, "-m", "pointsman.transformers.host", "--model", directory.string(), "--dtype",
                          options.dtype, "--device", options.device, "--threads", std::to_string(threads)},
                         environment);
  if (!process.ok()) return Error{process.error().code, process.error().message + "; " + kRemedy};
  model->channel_ = std::make_shared<Channel>(std::move(process).value());
  POINTSMAN_CHECK_OK(model->ReadHello(directory, options));
  const MoeConfig& config = model->config_;
  POINTSMAN_CHECK_OK(CheckVocabulary(config, *model->tokenizer_, directory));
  model->fingerprint_.tokenizer_sha256 = Sha256Hex(model->tokenizer_->CanonicalText());
  if (config.model_type == "olmoe") {
    // Of the files, as the runtime has it, the digest of the experts included: the memory serves in both.
    POINTSMAN_TRY(const MoeConfig files_config, LoadConfig(directory));
    POINTSMAN_TRY(const SafetensorsFiles files, SafetensorsFiles::Open(directory));
    POINTSMAN_TRY(model->fingerprint_, ComputeFingerprint(files_config, files, *model->tokenizer_));
  }
  return model;
}

}  // namespace pointsman
