#include "router/c_api.h"

#include <gtest/gtest.h>
