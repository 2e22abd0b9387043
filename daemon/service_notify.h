// What a service manager is told: systemd's sd_notify, nothing where there is none (NOTIFY_SOCKET is not set). Any
// thread.
#pragma once

#include <string>

namespace pointsman {

void NotifyReady(const std::string& status);  // started, or done with reading its files again
void NotifyReloading();
void NotifyStopping();

}  // namespace pointsman
