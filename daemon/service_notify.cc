#include "daemon/service_notify.h"

#include <systemd/sd-daemon.h>

#include <ctime>

namespace pointsman {
namespace {

// A manager that cannot be told is not a reason to stop: sd_notify's result is of no use here.
void Tell(const std::string& state) { static_cast<void>(sd_notify(0, state.c_str())); }

}  // namespace

void NotifyReady(const std::string& status) { Tell("READY=1\nSTATUS=" + status); }

void NotifyReloading() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  Tell("RELOADING=1\nMONOTONIC_USEC=" + std::to_string(now.tv_sec * 1'000'000LL + now.tv_nsec / 1000));
}

void NotifyStopping() { Tell("STOPPING=1\nSTATUS=draining"); }

}  // namespace pointsman
