// Whether a server with a few compute threads takes another piece of work, by how long it would wait.
//
// By the wait, not by the number: a hundred requests that take a hundredth of a millisecond each are no load, three
// that take a second each are. What a request will take is told by its bytes, and by what a byte has taken lately.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <utility>

namespace pointsman {

// Any thread.
class WaitAdmission {
 public:
  // A piece of work that was taken, until its end. Must not outlive its admission.
  class Ticket {
   public:
    Ticket(Ticket&& other) noexcept : admission_(std::exchange(other.admission_, nullptr)), bytes_(other.bytes_) {}
    Ticket& operator=(Ticket&&) = delete;
    ~Ticket() {
      if (admission_) admission_->Leave(bytes_);
    }
    // It took `seconds` on a compute thread: later waits are told by it.
    void Took(double seconds) { admission_->Learn(bytes_, seconds); }

   private:
    friend class WaitAdmission;
    Ticket(WaitAdmission* admission, uint64_t bytes) : admission_(admission), bytes_(bytes) {}
    WaitAdmission* admission_;
    uint64_t bytes_;
  };

  // Work is taken that is expected to start within `most_wait_s` on one of `threads` threads, and always where one of
  // them is free.
  WaitAdmission(uint32_t threads, double most_wait_s);

  std::optional<Ticket> Enter(uint64_t bytes);  // empty: it would wait too long
  bool Full() const;                            // Enter would refuse

 private:
  bool FullLocked() const;
  void Leave(uint64_t bytes);
  void Learn(uint64_t bytes, double seconds);

  const uint32_t threads_;
  const double most_wait_s_;
  mutable std::mutex mutex_;
  uint64_t taken_ = 0, bytes_ = 0;  // and not ended
  double seconds_per_byte_ = 0;     // lately; 0: nothing has ended yet
};

}  // namespace pointsman
