#include "daemon/api/await.h"

#include <gtest/gtest.h>

#include <boost/asio/io_context.hpp>
#include <boost/asio/strand.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace pointsman {
namespace {

namespace asio = boost::asio;

// What GCC 12 would destroy twice does not compile inside a co_await expression.
template <typename Work>
concept TakenInPlace = requires(asio::thread_pool& pool, Work work) {
  OnCompute(pool, std::move(work));
};

TEST(OnCompute, RefusesCapturesByValueThatHaveNoName) {
  const auto held = std::make_shared<int>(1);
  int there = 2;
  const auto by_value = [held] { return *held; };
  const auto by_reference = [&] { return *held + there; };
  static_assert(!TakenInPlace<std::remove_cv_t<decltype(by_value)>>);
  static_assert(TakenInPlace<std::remove_cv_t<decltype(by_reference)>>);
  static_assert(ComputeWork<decltype((by_value))>);
  EXPECT_EQ(by_value() + by_reference(), 4);
}

asio::awaitable<void> Ask(asio::thread_pool& pool, asio::thread_pool& writer, std::shared_ptr<std::string> text,
                          int* right) {
  const auto executor = co_await asio::this_coro::executor;
  const auto mailbox = std::make_shared<Mailbox<std::string>>(executor, 3);
  const auto write = [mailbox, text] {
    for (int i = 0; i < 3; ++i) mailbox->Send(*text);
  };
  const auto copy = [text] { return *text; };
  for (int round = 0; round < 500; ++round) {
    asio::post(writer, write);
    bool same = co_await OnCompute(pool, copy) == *text;
    for (int i = 0; i < 3; ++i) {
      const auto received = co_await mailbox->Receive();
      same = same && received && *received == *text;
    }
    *right += same;
  }
}

// Four handlers on two network threads, two compute threads and one that writes: what they share is counted.
TEST(OnCompute, GivesBackAllThatItsWorkHeld) {
  asio::thread_pool pool(2), writer(1);
  asio::io_context network(2);
  std::vector<std::shared_ptr<std::string>> texts;
  std::vector<int> right(4, 0);
  for (int& count : right) {
    texts.push_back(std::make_shared<std::string>("a text that is longer than what a string keeps in itself"));
    asio::co_spawn(asio::make_strand(network), Ask(pool, writer, texts.back(), &count), asio::detached);
  }
  std::thread other([&] { network.run(); });
  network.run();
  other.join();
  pool.join();
  writer.join();
  for (const int count : right) EXPECT_EQ(count, 500);
  for (const auto& text : texts) EXPECT_EQ(text.use_count(), 1);
}

asio::awaitable<void> Throw(asio::thread_pool& pool, bool* caught) {
  const auto work = []() -> int { throw std::runtime_error("of the work"); };
  try {
    co_await OnCompute(pool, work);
  } catch (const std::runtime_error&) {
    *caught = true;
  }
}

TEST(OnCompute, AnExceptionComesToWhoWaits) {
  asio::thread_pool pool(1);
  asio::io_context network(1);
  bool caught = false;
  asio::co_spawn(network, Throw(pool, &caught), asio::detached);
  network.run();
  EXPECT_TRUE(caught);
}

}  // namespace
}  // namespace pointsman
