// Sessions for nginx, in the ways of its sticky modules: a digest of the server's text or of its socket address, or its
// place in the list. The variables servers, input, hash and key say which.
import crypto from 'crypto';

// sockaddr returns a socket address as Linux has it on little-endian machines.
function sockaddr(server) {
    const end = server.lastIndexOf(':');
    const port = Number(server.slice(end + 1));
    const ip = server.slice(0, end);
    if (ip[0] != '[') {
        return Buffer.from([2, 0, port >> 8, port & 255].concat(ip.split('.').map(Number), [0, 0, 0, 0, 0, 0, 0, 0]));
    }
    const sides = ip.slice(1, -1).split('::').map((side) => side == '' ? [] : side.split(':'));
    while (sides[0].length + sides[1].length < 8) {
        sides[0].push('0');
    }
    let bytes = [10, 0, port >> 8, port & 255, 0, 0, 0, 0];
    sides[0].concat(sides[1]).forEach((group) => bytes.push(parseInt(group, 16) >> 8, parseInt(group, 16) & 255));
    return Buffer.from(bytes.concat([0, 0, 0, 0]));
}

function value(v, server) {
    if (v.hash == 'index') {
        return String(v.servers.split(' ').indexOf(server));
    }
    const h = v.key ? crypto.createHmac(v.hash, v.key) : crypto.createHash(v.hash);
    return h.update(v.input == 'sockaddr' ? sockaddr(server) : server).digest('hex');
}

// bound returns the server that the request's cookie names, if any.
function bound(r) {
    const v = r.variables;
    return v.servers.split(' ').find((server) => value(v, server) == v.cookie_route) || '';
}

// binding returns the cookie for a client that is not bound to the server that answered.
function binding(r) {
    const v = r.variables;
    return v.bound == v.upstream_addr ? '' : 'route=' + value(v, v.upstream_addr) + '; Path=/';
}

export default {bound, binding};
