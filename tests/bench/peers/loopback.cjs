// Portkey's gateway listens on every address and has no option for it: node -r loopback.cjs keeps it on this machine.
const { Server } = require('node:net');
const listen = Server.prototype.listen;
Server.prototype.listen = function (port, host, ...rest) {
  return typeof port === 'number' ? listen.call(this, port, '127.0.0.1', ...(host ? [host] : []), ...rest.filter(Boolean)) : listen.call(this, port, host, ...rest);
};
