// Bridges between handlers (coroutines on network threads) and the threads that compute.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/concurrent_channel.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/system/error_code.hpp>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>  // before asio's coroutine headers, see daemon/http/message.h

namespace pointsman {

// What OnCompute runs. GCC 12 destroys a lambda that is written inside a co_await expression twice (its bug 101367),
// and with it what it captures by value: such a lambda gets a name first, and is copied. References alone do no harm.
template <typename Work>
concept ComputeWork = std::is_lvalue_reference_v<Work> || std::is_trivially_destructible_v<Work>;

template <typename Work>
boost::asio::awaitable<std::invoke_result_t<Work>> RunOnCompute(boost::asio::thread_pool& pool, Work work) {
  using Value = std::invoke_result_t<Work>;
  // Held by value in the coroutine's frame: the caller may be gone when it runs.
  auto run = [work = std::move(work)]() mutable -> boost::asio::awaitable<Value> { co_return work(); };
  co_return co_await boost::asio::co_spawn(pool, std::move(run), boost::asio::use_awaitable);
}

// Runs `work` on a compute thread and gives its result; the network thread is free meanwhile.
template <ComputeWork Work>
auto OnCompute(boost::asio::thread_pool& pool, Work&& work) {
  return RunOnCompute<std::remove_cvref_t<Work>>(pool, std::forward<Work>(work));
}

// What another thread tells a waiting handler, in order. Bounded by `capacity`, which must hold all that is sent.
template <typename T>
class Mailbox {
 public:
  Mailbox(boost::asio::any_io_executor executor, size_t capacity) : channel_(std::move(executor), capacity) {}

  // Any thread. false: nobody reads any more, or the capacity was too small.
  bool Send(T value) { return channel_.try_send(boost::system::error_code(), std::make_shared<T>(std::move(value))); }
  void Close() { channel_.close(); }

  boost::asio::awaitable<std::shared_ptr<T>> Receive() {
    boost::system::error_code error;
    auto value = co_await channel_.async_receive(boost::asio::redirect_error(boost::asio::use_awaitable, error));
    co_return error ? nullptr : value;
  }
  std::shared_ptr<T> TryReceive() {
    std::shared_ptr<T> value;
    channel_.try_receive([&](boost::system::error_code error, std::shared_ptr<T> received) {
      if (!error) value = std::move(received);
    });
    return value;
  }

 private:
  boost::asio::experimental::concurrent_channel<void(boost::system::error_code, std::shared_ptr<T>)> channel_;
};

}  // namespace pointsman
