// The transports of a connection.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/strand.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>

namespace pointsman {

using ConnectionStrand = boost::asio::strand<boost::asio::io_context::executor_type>;
using TcpStream = boost::beast::basic_stream<boost::asio::ip::tcp, ConnectionStrand>;
using UnixStream = boost::beast::basic_stream<boost::asio::local::stream_protocol, ConnectionStrand>;
using TlsStream = boost::beast::ssl_stream<TcpStream>;

}  // namespace pointsman
