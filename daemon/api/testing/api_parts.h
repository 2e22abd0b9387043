// The parts of a server with a tiny model, without its network: what an ApiContext borrows, for tests.
#pragma once

#include <gtest/gtest.h>

#include <boost/asio/thread_pool.hpp>
#include <memory>
#include <utility>

#include "daemon/api/chat.h"
#include "daemon/api/context.h"
#include "daemon/api/texts.h"
#include "models/testing/tiny_model.h"

namespace pointsman::testing {

template <typename T>
T Must(Result<T> result) {
  EXPECT_TRUE(result.ok()) << result.error().message;
  return std::move(result).value();
}

struct ApiParts {
  // `options`: but for the model, which is written.
  explicit ApiParts(DaemonOptions given = {}) : options(std::move(given)) {
    options.model = folder.path() / "tiny";
    options.log.level = LogLevel::kError;
    WriteTinyModel(options.model, {});
    log = Must(Log::Open(options.log));
    model = Must(MoeModel::Load(options.model));
    engine = Must(Engine::Start(model, {.threads = 1}));
    memories = std::make_unique<MemoryRegistry>(model->fingerprint(), metrics);
    texts = std::make_unique<DocumentTextCache>(model->tokenizer());
    chat = Must(LoadChatFormat(options.model, options.chat_template));
    context.reset(new ApiContext{.options = options,
                                 .model = *model,
                                 .model_id = "tiny",
                                 .engine = *engine,
                                 .memories = *memories,
                                 .sessions = sessions,
                                 .log = *log,
                                 .metrics = metrics,
                                 .compute = compute,
                                 .texts = *texts,
                                 .chat = chat});
  }
  ~ApiParts() { compute.join(); }
  ApiParts(const ApiParts&) = delete;
  ApiParts& operator=(const ApiParts&) = delete;

  TemporaryDirectory folder;
  DaemonOptions options;
  MetricRegistry metrics;
  SessionStore sessions{SessionLimits()};
  boost::asio::thread_pool compute{1};
  std::unique_ptr<Log> log;
  std::shared_ptr<const MoeModel> model;
  std::unique_ptr<Engine> engine;
  std::unique_ptr<MemoryRegistry> memories;
  std::unique_ptr<DocumentTextCache> texts;
  ChatFormat chat;
  std::unique_ptr<ApiContext> context;
};

}  // namespace pointsman::testing
