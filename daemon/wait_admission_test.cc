#include "daemon/wait_admission.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace pointsman {
namespace {

// As many as are taken of work of `bytes` each, at most 1,000.
size_t Taken(WaitAdmission& admission, uint64_t bytes) {
  std::vector<WaitAdmission::Ticket> tickets;
  while (tickets.size() < 1000) {
    const bool full = admission.Full();
    auto ticket = admission.Enter(bytes);
    EXPECT_EQ(ticket.has_value(), !full);
    if (!ticket) break;
    tickets.push_back(std::move(*ticket));
  }
  return tickets.size();
}

void Learn(WaitAdmission& admission, uint64_t bytes, double seconds) {
  for (int i = 0; i < 100; ++i) admission.Enter(bytes)->Took(seconds);
}

TEST(WaitAdmissionTest, TakesTwoAThreadUntilItKnowsHowLongTheyTake) {
  WaitAdmission admission(3, 0.002);
  EXPECT_EQ(Taken(admission, 1000), 6u);
  EXPECT_EQ(Taken(admission, 1000), 6u);  // the tickets are given back
}

TEST(WaitAdmissionTest, TakesWhatWouldStartInTime) {
  WaitAdmission admission(2, 0.002);
  Learn(admission, 1000, 0.003);
  EXPECT_EQ(Taken(admission, 1000), 3u);  // the third waits for 1.5 ms, a fourth would for 3
  EXPECT_EQ(Taken(admission, 2000), 2u);
  EXPECT_EQ(Taken(admission, 100), 15u);  // of .3 ms each
}

TEST(WaitAdmissionTest, AFreeThreadTakesAnything) {
  WaitAdmission admission(2, 0);
  Learn(admission, 10, 5.0);
  EXPECT_EQ(Taken(admission, 1'000'000'000), 2u);
  const auto one = admission.Enter(1'000'000'000);
  EXPECT_FALSE(admission.Full());
  EXPECT_EQ(Taken(admission, 1), 1u);
}

TEST(WaitAdmissionTest, ForgetsWhatWasSlow) {
  WaitAdmission admission(1, 0.010);
  Learn(admission, 100, 1.0);
  EXPECT_EQ(Taken(admission, 100), 1u);
  Learn(admission, 100, 0.001);
  EXPECT_GE(Taken(admission, 100), 10u);
}

TEST(WaitAdmissionTest, ManyThreadsEnterAndLeave) {
  WaitAdmission admission(2, 0.0009);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) {
        if (auto ticket = admission.Enter(10)) ticket->Took(0.0005);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(admission.Full());
  EXPECT_EQ(Taken(admission, 10), 5u);  // all were given back: the fifth waits for .75 ms, a sixth would for 1
}

}  // namespace
}  // namespace pointsman
