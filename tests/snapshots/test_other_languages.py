"""The documented keys are enough for a program in another language: Node and Java, over a plain socket."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import Vectors
from tests.snapshots.test_published_lists import listed

NODE = r"""
const [host, port, user] = process.argv.slice(2);
const socket = require("net").connect({ host, port });
let data = Buffer.alloc(0), done = null;
const bulk = (word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`;
const pack = (words) => `*${words.length}\r\n` + words.map(bulk).join("");
function bulks(count) { // the bulk strings of an answer, null where one is missing; undefined: more comes
  const found = [];
  for (let at = data[0] === 42 ? data.indexOf("\r\n") + 2 : 0; found.length < count; ) {
    const end = data.indexOf("\r\n", at), size = Number(data.subarray(at + 1, end));
    if (end < 0 || data.length < end + 2 + Math.max(size, 0)) return undefined;
    found.push(size < 0 ? null : data.subarray(end + 2, end + 2 + size));
    at = size < 0 ? end + 2 : end + 4 + size;
  }
  return found;
}
socket.on("data", (part) => { data = Buffer.concat([data, part]); if (done) done(); });
const ask = (count, ...words) => new Promise((resolve) => {
  data = Buffer.alloc(0);
  done = () => { const found = bulks(count); if (found) { done = null; resolve(found); } };
  socket.write(pack(words));
});
(async () => {
  const [gen] = await ask(1, "HGET", "shop:emb:current", "gen");
  const key = `shop:emb:${gen}:user:${user}`;
  const [list, touched, blob] = await ask(3, "HMGET", key, "list", "touched", "embedding");
  const seen = new Set(JSON.parse(touched ?? "[]"));
  const best = JSON.parse(list ?? "[]").filter((item) => !seen.has(item)).slice(0, 2);
  console.log(best.join(","), blob.readFloatLE(4));
  socket.end();
})();
"""
JAVA = r"""
import java.io.*; import java.net.Socket; import java.nio.*; import java.util.*;
import static java.nio.charset.StandardCharsets.UTF_8;
class Read {
  static InputStream in; static OutputStream out;
  static String line() throws IOException {
    var text = new StringBuilder();
    for (int c; (c = in.read()) != '\r'; ) text.append((char) c);
    in.read();
    return text.toString();
  }
  static List<byte[]> ask(String... words) throws IOException {
    out.write(("*" + words.length + "\r\n").getBytes(UTF_8));
    for (var word : words) {
      out.write(("$" + word.getBytes(UTF_8).length + "\r\n" + word + "\r\n").getBytes(UTF_8));
    }
    var head = line();
    int count = head.charAt(0) == '*' ? Integer.parseInt(head.substring(1)) : 1;
    var found = new ArrayList<byte[]>();
    for (int n = 0; n < count; n++) {
      int size = Integer.parseInt((head.charAt(0) == '*' ? line() : head).substring(1));
      found.add(size < 0 ? null : in.readNBytes(size));
      if (size >= 0) line();
    }
    return found;
  }
  static List<String> ids(byte[] json) { // ids of this test have no quotes; use a JSON library for others
    var text = json == null ? "[]" : new String(json, UTF_8);
    return text.equals("[]") ? List.of() : List.of(text.substring(2, text.length() - 2).split("\",\""));
  }
  public static void main(String[] args) throws IOException {
    try (var socket = new Socket(args[0], Integer.parseInt(args[1]))) {
      in = new BufferedInputStream(socket.getInputStream());
      out = socket.getOutputStream();
      var gen = new String(ask("HGET", "shop:emb:current", "gen").get(0), UTF_8);
      var row = ask("HMGET", "shop:emb:" + gen + ":user:" + args[2], "list", "touched", "embedding");
      var seen = Set.copyOf(ids(row.get(1)));
      var best = ids(row.get(0)).stream().filter(item -> !seen.contains(item)).limit(2).toList();
      float second = ByteBuffer.wrap(row.get(2)).order(ByteOrder.LITTLE_ENDIAN).getFloat(4);
      System.out.println(String.join(",", best) + " " + second);
    }
  }
}
"""


COMPILES = {"java": "javac"}  # a Java that runs source files has this beside it


@pytest.mark.parametrize(("tool", "name", "code"), [("node", "read.js", NODE), ("java", "Read.java", JAVA)])
def test_another_language_reads_lists_and_vectors_by_the_documented_keys(
    store: GenerationStore, redis_server: EmbeddedRedis, tmp_path: Path, tool: str, name: str, code: str
) -> None:
    if shutil.which(COMPILES.get(tool, tool)) is None:
        pytest.skip(f"no {COMPILES.get(tool, tool)} on this machine")
    vectors = np.array([[1, 2.5], [3, 4]], np.float32)
    lists = [listed(["i1", "é😀", "i3", "i4"], [4, 3, 2, 1])] * 2
    users = Vectors(["u a", "other"], vectors, np.zeros(2, np.int64), [["i1"], []], lists)
    items = Vectors(["i1"], vectors[:1], np.zeros(1, np.int64))
    for number in (1, 2):
        store.publish(number, users, items, {"lists": 4})
    (tmp_path / name).write_text(code, "utf-8")
    host, port = redis_server.url.removeprefix("redis://").partition("/")[0].split(":")
    command = [tool, *(["-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8"] if tool == "java" else [])]
    done = subprocess.run(
        [*command, str(tmp_path / name), host, port, "u a"], capture_output=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout.decode().strip()) == (0, "é😀,i3 2.5"), done.stderr.decode()
