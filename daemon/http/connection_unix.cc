#include "daemon/http/connection_impl.h"

namespace pointsman {

template class Connection<UnixStream>;

}  // namespace pointsman
