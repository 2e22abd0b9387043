#include "daemon/http/connection_impl.h"

namespace pointsman {

template class Connection<TcpStream>;

}  // namespace pointsman
