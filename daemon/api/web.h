// The dashboard's routes: / and /web/{file}. On their own, without what the API's handlers share: they need none of it.
#pragma once

#include "daemon/http/path_router.h"

namespace pointsman {

void AddWebRoutes(PathRouter& router);

}  // namespace pointsman
