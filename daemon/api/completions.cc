// POST /v1/completions and /v1/chat/completions: parse, bind, hand every choice to the engine, answer whole or as a
// stream. A client that goes away ends its choices in the engine.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "daemon/api/await.h"
#include "daemon/api/binding.h"
#include "daemon/api/chat.h"
#include "daemon/api/completion_request.h"
#include "daemon/api/completion_response.h"
#include "daemon/api/context.h"
#include "daemon/api/texts.h"
#include "daemon/json_body.h"
#include "models/explain.h"

namespace pointsman {
namespace {

namespace asio = boost::asio;
using nlohmann::json;

constexpr auto kPingInterval = std::chrono::seconds(15);
constexpr size_t kMostEventBytes = 64 * 1024;  // of events in one write

// From the engine's thread to the handler: a token of a stream, the end of a choice, or a sign of life.
struct Message {
  uint32_t choice = 0;
  std::optional<TokenOutput> token;
  std::optional<Result<CompletionTask::Done>> done;  // neither: a ping
};

// Everything of one request that outlives the function that began it: the stream is written later.
struct Running {
  explicit Running(ApiContext& c) : context(c) {}

  ApiContext& context;
  CompletionRequest request;
  BoundRouting routing;
  CompletionHead head;
  std::string owner;
  std::vector<ChoiceState> choices;
  std::vector<size_t> prompt_of;  // by choice
  std::vector<uint64_t> task_ids;
  std::shared_ptr<Mailbox<Message>> mailbox;
  uint64_t prompt_tokens = 0;
  size_t open = 0;  // choices that go on

  RoutingSummary Summary() const {
    RoutingSummary summary;
    summary.session = routing.session_id;
    summary.shadow = routing.shadow;
    summary.seed = request.seed;
    if (routing.memory) {
      summary.memory = routing.memory->loaded->id;
      summary.generation = routing.memory->loaded->generation;
    }
    return summary;
  }
  bool keeps_tokens() const { return request.logprobs || request.explain; }
};

ApiError SubmitError(const Error& error) {
  if (error.code != ErrorCode::kBusy) return FromError(error);
  return {ApiCode::kOverloaded, error.message, {}, 1};
}

// Tokens of a stream go to the handler one by one. Those of a whole answer are gathered on the engine's thread, which
// has the choice to itself until on_done: waking a network thread for each would take its core from the next step.
CompletionTask TaskOf(const std::shared_ptr<Running>& held, size_t choice) {
  Running& run = *held;
  const CompletionRequest& request = run.request;
  CompletionTask task;
  task.prompt = request.prompts[run.prompt_of[choice]];
  task.max_tokens = request.max_tokens;
  task.temperature = request.temperature;
  task.top_p = request.top_p;
  task.seed = request.seed + choice;
  task.ignore_end = request.ignore_end;
  task.stop = request.stop;
  task.top_logprobs = request.top_logprobs;
  task.explain = request.explain;
  task.binding = run.routing.binding();
  if (request.rewire) {
    task.rewire = RewireRequest{.rerouting = request.rewire->rerouting,
                                .interval = request.rewire->interval,
                                .recompute = request.rewire->recompute};
    if (run.routing.session) task.rewire->start = *run.routing.session;
  }
  const auto index = static_cast<uint32_t>(choice);
  const std::shared_ptr<MemoryState> state = run.routing.memory ? run.routing.memory->state : nullptr;
  task.on_token = [held, state, index](const TokenOutput& token) {
    if (state && token.token >= 0) MemoryRegistry::CountToken(*state, token.gate, token.confidence, token.layers);
    if (held->request.stream) {
      held->mailbox->Send({.choice = index, .token = token, .done = {}});
    } else {
      held->choices[index].Add(token, held->keeps_tokens());
    }
  };
  task.on_done = [mailbox = run.mailbox, index](Result<CompletionTask::Done> done) {
    mailbox->Send({.choice = index, .token = {}, .done = std::move(done)});
  };
  return task;
}

void CancelAll(Running& run) {
  for (const uint64_t id : run.task_ids) run.context.engine.Cancel(id);
}

// Hands every choice to the engine, or none.
std::optional<ApiError> SubmitAll(const std::shared_ptr<Running>& run, const HttpRequest& request) {
  for (size_t i = 0; i < run->choices.size(); ++i) {
    const Result<uint64_t> id = run->context.engine.Submit(TaskOf(run, i));
    if (!id.ok()) {
      CancelAll(*run);
      return SubmitError(id.error());
    }
    run->task_ids.push_back(id.value());
  }
  run->open = run->choices.size();
  if (request.cancelled) {
    request.cancelled->OnRequest([weak = std::weak_ptr(run)] {
      if (const auto held = weak.lock()) CancelAll(*held);
    });
  }
  if (run->routing.memory) ++run->routing.memory->state->requests;
  return std::nullopt;
}

std::shared_ptr<Running> Begin(ApiContext& context, const HttpRequest& http, CompletionRequest request,
                               BoundRouting routing, const asio::any_io_executor& executor) {
  auto run = std::make_shared<Running>(context);
  run->request = std::move(request);
  run->routing = std::move(routing);
  run->owner = http.principal.name;
  const CompletionRequest& r = run->request;
  run->head.chat = r.chat;
  run->head.id = (r.chat ? "chatcmpl-" : "cmpl-") + http.id;
  run->head.created = NowUnixSeconds();
  run->head.model = context.model_id;
  run->head.logprobs = r.logprobs;
  size_t capacity = 64;  // pings
  for (size_t p = 0; p < r.prompts.size(); ++p) {
    run->prompt_tokens += r.prompts[p].size();
    for (int64_t i = 0; i < r.n; ++i) {
      ChoiceState choice;
      choice.index = static_cast<uint32_t>(run->choices.size());
      if (r.echo) choice.text = r.prompt_texts[p];
      run->choices.push_back(std::move(choice));
      run->prompt_of.push_back(p);
      capacity += 1;  // its end
      if (!r.stream) continue;
      capacity += static_cast<size_t>(std::min<int64_t>(r.max_tokens, context.model.config().max_positions)) + 2;
    }
  }
  run->mailbox = std::make_shared<Mailbox<Message>>(executor, capacity);
  return run;
}

// Where a choice's time went. The same metric is found again by its name and label.
void ObserveStages(MetricRegistry& metrics, const CompletionTask::Done& done) {
  const auto observe = [&](const char* stage, double seconds) {
    metrics
        .AddHistogram("pointsman_completion_stage_seconds",
                      "Of each choice of a completion: waiting for a place, reading the prompt, generating, learning.",
                      LatencyBuckets(), {{"stage", stage}})
        .Observe(seconds);
  };
  observe("queue", done.queued_s);
  observe("prefill", done.prefill_s);
  observe("decode", done.decode_s);
  if (done.adapt_s > 0) observe("adapt", done.adapt_s);
}

// Takes in one message; an error ends the request.
std::optional<ApiError> Take(Running& run, Message& message) {
  ChoiceState& choice = run.choices[message.choice];
  if (message.token) choice.Add(*message.token, run.keeps_tokens());
  if (!message.done) return std::nullopt;
  --run.open;
  if (!message.done->ok()) return FromError(message.done->error());
  choice.done = std::move(*message.done).value();
  ObserveStages(run.context.metrics, choice.done);
  choice.finish_reason = FinishReasonName(choice.done.generation.finish_reason);
  return std::nullopt;
}

// What the request's rerouting learned goes into its session (the first choice's: the others are samples beside it).
void KeepSession(Running& run) {
  if (run.routing.session_id.empty() || !run.request.rewire || run.choices.empty()) return;
  const ChoiceState& first = run.choices.front();
  SessionEvent event;  // a completion does not measure its losses
  event.unix_s = NowUnixSeconds();
  event.tokens = run.request.prompts.front().size() + first.token_count;
  event.loss_before = event.loss_after = std::numeric_limits<double>::quiet_NaN();
  const Status kept =
      run.context.sessions.Update(run.owner, run.routing.session_id,
                                  std::make_shared<const SessionVectors>(first.done.vectors), event, NowUnixSeconds());
  if (!kept.ok())
    run.context.log.Write(LogLevel::kInfo, "session gone before its update", {{"reason", kept.error().message}});
}

// Explanations of a choice's tokens, "explain" of `generate --json`.
json Explain(Running& run, const ChoiceState& choice, std::span<const TokenOutput> tokens, uint32_t first) {
  json list = json::array();
  if (!run.routing.memory) return list;
  const LoadedMemory& memory = *run.routing.memory->loaded;
  const std::shared_ptr<const DocumentTexts> texts = run.context.texts.Of(memory);
  uint32_t position = static_cast<uint32_t>(run.request.prompts[run.prompt_of[choice.index]].size()) + first;
  for (const TokenOutput& token : tokens) {
    if (token.token < 0) continue;
    list.push_back(ToJson(ExplainToken(*memory.tables, texts.get(), run.context.model.config().experts_per_token,
                                       position++, token.token, token.gate, token.trace)));
  }
  return list;
}

asio::awaitable<HttpResponse> Whole(std::shared_ptr<Running> run) {
  while (run->open > 0) {
    const auto message = co_await run->mailbox->Receive();
    if (!message) co_return ErrorResponse({ApiCode::kInternal, "the engine stopped"});
    if (const auto error = Take(*run, *message)) {
      CancelAll(*run);
      co_return ErrorResponse(*error);
    }
  }
  KeepSession(*run);
  const auto answer = [run] {
    std::vector<json> explain(run->choices.size());
    if (run->request.explain) {
      for (size_t i = 0; i < explain.size(); ++i)
        explain[i] = Explain(*run, run->choices[i], run->choices[i].tokens, 0);
    }
    return JsonResponse(CompletionJson(run->head, run->choices, explain, run->prompt_tokens, run->Summary(),
                                       run->context.model.tokenizer()));
  };
  co_return co_await OnCompute(run->context.compute, answer);
}

// Sends a ping into the mailbox while nothing else happens, so that proxies keep the connection.
asio::awaitable<void> Ping(std::shared_ptr<Mailbox<Message>> mailbox, std::shared_ptr<asio::steady_timer> timer) {
  for (;;) {
    timer->expires_after(kPingInterval);
    boost::system::error_code error;
    co_await timer->async_wait(asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return;
    mailbox->Send({});
  }
}

json ChunkOf(Running& run, Message& message) {
  ChoiceState& choice = run.choices[message.choice];
  const Tokenizer& tokenizer = run.context.model.tokenizer();
  const bool first = choice.token_count == 0;
  const bool ends = message.done.has_value();
  std::vector<TokenOutput> tokens;
  if (message.token) tokens.push_back(*message.token);
  const std::string text = message.token ? message.token->text : std::string();
  json chunk = ChunkJson(run.head, choice.index, text, tokens,
                         ends ? FinishReasonName(message.done->value().generation.finish_reason) : nullptr,
                         first && !ends, tokenizer);
  if (run.request.explain && message.token && message.token->token >= 0) {
    chunk["choices"][0]["explain"] = Explain(run, choice, tokens, choice.token_count);
  }
  return chunk;
}

// The message as a server-sent event, and taken in; `error` where its choice failed, which ends the stream.
std::string EventOf(Running& run, Message& message, std::optional<ApiError>& error) {
  if (!message.token && !message.done) return ": ping\n\n";
  if (message.done && !message.done->ok()) error = FromError(message.done->error());
  std::string event = error ? ServerSentEvent(json::parse(ErrorJson(*error))) : ServerSentEvent(ChunkOf(run, message));
  Take(run, message);
  return event;
}

asio::awaitable<void> Events(std::shared_ptr<Running> run, HttpStream& stream) {
  for (const ChoiceState& choice : run->choices) {
    if (choice.text.empty()) continue;  // echo
    const json chunk =
        ChunkJson(run->head, choice.index, choice.text, {}, nullptr, true, run->context.model.tokenizer());
    if (!co_await stream.Write(ServerSentEvent(chunk))) co_return CancelAll(*run);
  }
  while (run->open > 0) {
    auto message = co_await run->mailbox->Receive();
    if (!message) co_return;
    // What came while the last events were written goes out with this one.
    std::string events;
    std::optional<ApiError> error;
    while (message) {
      events += EventOf(*run, *message, error);
      if (error || run->open == 0 || events.size() >= kMostEventBytes) break;
      message = run->mailbox->TryReceive();
    }
    if (!co_await stream.Write(events) || error) co_return CancelAll(*run);
  }
  KeepSession(*run);
  if (run->request.include_usage) {
    json usage = UsageChunkJson(run->head, run->prompt_tokens, run->choices);
    usage["pointsman"] = SummaryJson(run->Summary(), run->choices);
    const std::string event = ServerSentEvent(usage);
    co_await stream.Write(event);
  }
  co_await stream.Write("data: [DONE]\n\n");
}

HttpResponse Streamed(std::shared_ptr<Running> run) {
  HttpResponse response;
  response.content_type = "text/event-stream; charset=utf-8";
  response.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
  response.stream = [run = std::move(run)](HttpStream& stream) -> asio::awaitable<void> {
    const auto executor = co_await asio::this_coro::executor;
    const auto timer = std::make_shared<asio::steady_timer>(executor);
    asio::co_spawn(executor, Ping(run->mailbox, timer), asio::detached);
    co_await Events(run, stream);
    timer->cancel();
  };
  return response;
}

std::optional<ApiError> EngineIsFull(const ApiContext& context) {
  const Status admits = context.engine.Admits();
  return admits.ok() ? std::nullopt : std::optional(SubmitError(admits.error()));
}

asio::awaitable<HttpResponse> Complete(ApiContext& context, const HttpRequest& http, bool chat) {
  const auto executor = co_await asio::this_coro::executor;
  auto parsed = co_await OnCompute(context.compute, [&]() -> std::variant<CompletionRequest, ApiError> {
    auto body = ParseJsonBody(http.body, http.Header("content-type"));
    if (const auto* error = std::get_if<ApiError>(&body)) return *error;
    return ParseCompletionRequest(
        std::get<json>(body), chat, context.model.tokenizer(), ChatEncoderOf(context),
        {.context = context.model.config().max_positions, .vocabulary = context.model.config().vocab_size});
  });
  if (const auto* error = std::get_if<ApiError>(&parsed)) co_return ErrorResponse(*error);
  auto& request = std::get<CompletionRequest>(parsed);
  if (!request.model.empty() && request.model != context.model_id) {
    co_return ErrorResponse({ApiCode::kNotFound,
                             fmt::format("model '{}': this server has '{}'", request.model, context.model_id),
                             "model"});
  }
  auto bound = BindRouting(context, http.principal,
                           {.frozen = request.memory_choice == CompletionRequest::Memory::kFrozen,
                            .memory = request.memory,
                            .session = request.session,
                            .strength = request.strength,
                            .shadow = request.shadow});
  if (const auto* error = std::get_if<ApiError>(&bound)) co_return ErrorResponse(*error);
  const bool stream = request.stream;
  const auto run = Begin(context, http, std::move(request), std::move(std::get<BoundRouting>(bound)), executor);
  if (const auto error = SubmitAll(run, http)) co_return ErrorResponse(*error);
  if (stream) co_return Streamed(run);
  co_return co_await Whole(run);
}

}  // namespace

void AddCompletionRoutes(PathRouter& router, ApiContext& context) {
  const auto add = [&](const char* pattern, bool chat) {
    router.Add({.method = "POST",
                .pattern = pattern,
                .access = Access::kRead,
                .handler = [&context, chat](const HttpRequest& request) { return Complete(context, request, chat); },
                .refuses = [&context](const HttpRequest&) { return EngineIsFull(context); }});
  };
  add("/v1/completions", false);
  add("/v1/chat/completions", true);
}

}  // namespace pointsman
