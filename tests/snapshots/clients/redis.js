// As much of the package redis (node-redis 5) as docs/reader.md uses, over a plain socket: answers come in the
// order of the commands, as with the real one, so several are on their way at once.
const net = require("net");

exports.RESP_TYPES = { BLOB_STRING: 36 };

exports.createClient = ({ url }) => {
  const { hostname, port } = new URL(url);
  const waiting = []; // of commands, in their order: [how many values, what to do with them]
  let data = Buffer.alloc(0);
  let socket;

  function values(count, at) { // the values of an answer and its end; undefined: more comes
    const found = [];
    while (found.length < count) {
      const end = data.indexOf("\r\n", at), size = Number(data.subarray(at + 1, end));
      if (end < 0 || data.length < end + 2 + Math.max(size, -1) + 2 * (size >= 0)) return undefined;
      found.push(size < 0 ? null : data.subarray(end + 2, end + 2 + size));
      at = size < 0 ? end + 2 : end + 4 + size;
    }
    return [found, at];
  }
  function received(part) {
    data = Buffer.concat([data, part]);
    while (waiting.length) {
      const [count, done] = waiting[0];
      const head = count && data.indexOf("\r\n"); // *3\r\n in front of several
      const answer = head < 0 ? undefined : values(count || 1, count ? head + 2 : 0);
      if (answer === undefined) return;
      waiting.shift();
      data = data.subarray(answer[1]);
      done(answer[0]);
    }
  }
  function send(count, ...words) {
    const bulks = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("");
    return new Promise((done) => {
      waiting.push([count, done]);
      socket.write(`*${words.length}\r\n${bulks}`);
    });
  }
  const typed = (asText) => ({
    hGet: async (key, field) => (await send(0, "HGET", key, field)).map(asText)[0],
    hmGet: async (key, fields) => (await send(fields.length, "HMGET", key, ...fields)).map(asText),
  });
  const client = {
    ...typed((value) => value?.toString() ?? null),
    withTypeMapping: () => typed((value) => value),
    destroy: () => socket.destroy(),
    connect: () => new Promise((done) => {
      socket = net.connect({ host: hostname, port }, () => done(client));
      socket.on("data", received);
    }),
  };
  return client;
};
