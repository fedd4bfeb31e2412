// One end of a TLS 1.3 connection by Node's OpenSSL: node peer.js client|server HOST:PORT CERTIFICATE KEY TRUST GROUP.
// A server prints its address first. The client says "ping", the server "pong"; both print what was negotiated.
"use strict";
const fs = require("fs");
const tls = require("tls");

const [mode, address, certificate, key, trust, group] = process.argv.slice(2);
const [host, port] = address.split(":");
const options = {
  cert: fs.readFileSync(certificate), key: fs.readFileSync(key), ca: fs.readFileSync(trust), ecdhCurve: group,
  minVersion: "TLSv1.3", requestCert: true, rejectUnauthorized: true, servername: "localhost",
};

function fail(error) {
  console.error(error.message);
  process.exit(1);
}

function talk(socket, say, expect, first) {
  socket.on("error", fail);
  if (first) socket.write(say);
  socket.once("data", (data) => {
    if (data.toString() !== expect) fail(new Error(`heard ${data}`));
    if (!first) socket.write(say);
    const used = first ? socket.getEphemeralKeyInfo().name : group;
    console.log(used, socket.getPeerCertificate().subject.CN);
    socket.end(() => process.exit(0));
  });
}

if (mode === "server") {
  const server = tls.createServer(options, (socket) => talk(socket, "pong", "ping", false));
  server.on("tlsClientError", fail);
  server.listen(Number(port), host, () => console.log(`${host}:${server.address().port}`));
} else {
  const socket = tls.connect(Number(port), host, options, () => talk(socket, "ping", "pong", true));
  socket.on("error", fail);
}
