"""The lines of docs/reader.md for other languages, as they stand there, read what the Python reader reads.

Their libraries are not at hand, so tests/snapshots/clients has as much of each as the lines use. Each program
answers lines of (user, item) with the vector, the list and the similar items.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis

from driftgraph.app.commands.embedded import EmbeddedRedis
from driftgraph.snapshots.generations.store import GenerationStore
from driftgraph.snapshots.generations.vectors import Vectors
from driftgraph.snapshots.reader import EmbeddingReader
from tests.snapshots.test_published_lists import listed

CLIENTS = Path(__file__).parent / "clients"
READER = Path(__file__).resolve().parents[2] / "docs" / "reader.md"
NAMESPACE = "driftgraph"  # that the lines have
TOP = 30
FIELD, ONE = "\x1f", "\x1e"  # between the three parts of an answer, and between ids

NODE = """
const { createClient, RESP_TYPES } = require("./redis.js");
%s
(async () => {
  const client = await createClient({ url: process.argv[2] }).connect();
  for await (const line of require("readline").createInterface({ input: process.stdin })) {
    const { vector, best, similar } = await read(client, ...line.split("\\t"));
    console.log([vector.join(","), best.join("\\x1e"), similar.join("\\x1e")].join("\\x1f"));
  }
  client.destroy();
})();
"""
JAVA = """
import static java.nio.charset.StandardCharsets.UTF_8;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.*; import java.nio.*; import java.util.*;
import redis.clients.jedis.Jedis;
class Read {
%s
  public static void main(String[] args) throws Exception {
    try (var client = new Jedis(args[0])) {
      var out = new PrintStream(System.out, true, UTF_8);
      var in = new BufferedReader(new InputStreamReader(System.in, UTF_8));
      for (String line; (line = in.readLine()) != null; ) {
        var found = read(client, line.split("\\t")[0], line.split("\\t")[1]);
        var vector = new ArrayList<String>();
        while (found.vector().hasRemaining()) vector.add("" + found.vector().get());
        out.println(String.join(",", vector) + "\\u001f" + String.join("\\u001e", found.best())
            + "\\u001f" + String.join("\\u001e", found.similar()));
      }
    }
  }
}
"""
GO = """package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

%s
func main() {
	db := redis.NewClient(os.Args[1])
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		ids := strings.Split(lines.Text(), "\\t")
		vector, best, similar, err := read(context.Background(), db, ids[0], ids[1])
		if err != nil {
			panic(err)
		}
		text := strings.Trim(strings.Join(strings.Fields(fmt.Sprint(vector)), ","), "[]")
		fmt.Println(text + "\\x1f" + strings.Join(best, "\\x1e") + "\\x1f" + strings.Join(similar, "\\x1e"))
	}
}
"""
SHELL = """
export REDIS_URL="$1" PATH="$(dirname "$0"):$PATH"
lines() {
%s
}
tab=$(printf '\\t')
while IFS="$tab" read -r user item; do
  until answer=$(lines); do :; done
  printf '%%s' "$answer" | tr '\\n' '\\037'
  echo
done
"""

Answer = tuple[list[float], list[str], list[str]]
Ask = Callable[[str, str], Answer]


def lines_of(language: str) -> str:
    """The lines of docs/reader.md."""
    (found,) = re.findall(
        rf"^```{language}\n(.*?)^```$", READER.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )[-1:]
    return str(found)


def node(folder: Path) -> list[str]:
    shutil.copy(CLIENTS / "redis.js", folder)
    (folder / "read.js").write_text(NODE % lines_of("js"), "utf-8")
    return ["node", str(folder / "read.js")]


def java(folder: Path) -> list[str]:
    (folder / "Read.java").write_text(JAVA % lines_of("java"), "utf-8")
    files = [CLIENTS / "Jedis.java", CLIENTS / "ObjectMapper.java", folder / "Read.java"]
    subprocess.run(["javac", "-encoding", "UTF-8", "-d", folder, *files], check=True, timeout=120)
    return ["java", "-cp", str(folder), "Read"]


def go(folder: Path) -> list[str]:
    (folder / "read.go").write_text(GO % lines_of("go"), "utf-8")
    client = "github.com/redis/go-redis/v9"
    (folder / "go.mod").write_text(
        f"module read\n\ngo 1.21\n\nrequire {client} v9.0.0\n\nreplace {client} => ./client\n"
    )
    (folder / "client").mkdir()
    (folder / "client" / "go.mod").write_text(f"module {client}\n\ngo 1.21\n")
    shutil.copy(CLIENTS / "redis.go", folder / "client")
    build = ["go", "build", "-mod=mod", "-o", "read", "."]
    subprocess.run(build, cwd=folder, check=True, timeout=200, env={**os.environ, "GOPROXY": "off"})
    return [str(folder / "read")]


def shell(folder: Path) -> list[str]:
    wrapper = folder / "redis-cli"  # the lines ask localhost:6379
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("redis-cli")} -u "$REDIS_URL" "$@"\n')
    wrapper.chmod(0o755)
    (folder / "read.sh").write_text(SHELL % lines_of("sh"), "utf-8")
    return ["sh", str(folder / "read.sh")]


TOOLS = {  # by the name of the test: what makes the program, and what it needs
    "node": (node, ["node"]),
    "java": (java, ["javac"]),
    "go": (go, ["go"]),
    "shell": (shell, ["redis-cli", "jq"]),
}


@pytest.fixture(params=TOOLS)
def ask(request: pytest.FixtureRequest, redis_server: EmbeddedRedis, tmp_path: Path) -> Iterator[Ask]:
    """Asks a program in another language."""
    prepare, needed = TOOLS[request.param]
    if missing := [tool for tool in needed if shutil.which(tool) is None]:
        pytest.skip(f"no {missing[0]} on this machine")
    command = [*prepare(tmp_path), redis_server.url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as run:
        assert run.stdin is not None
        assert run.stdout is not None

        def asked(user: str, item: str) -> Answer:
            assert run.stdin is not None
            assert run.stdout is not None
            run.stdin.write(f"{user}\t{item}\n")
            run.stdin.flush()
            vector, best, similar = run.stdout.readline().removesuffix("\n").split(FIELD)
            floats = [float(np.float32(one)) for one in re.findall(r"[^ ,]+", vector)]
            if request.param == "shell":
                return floats, json.loads(best), json.loads(similar)
            return floats, best.split(ONE) if best else [], similar.split(ONE) if similar else []

        yield asked
        run.stdin.close()
    assert run.returncode == 0


def generation(number: int) -> tuple[Vectors, Vectors]:
    """Everything in it tells its number."""
    rng = np.random.default_rng(number)
    vectors = np.concatenate([np.full((2, 1), number), rng.standard_normal((2, 3))], axis=1).astype(
        np.float32
    )
    best = [f"{number}", "é😀", 'i"3', "i\\4", "tab\t{x}", *(f"i{n}" for n in range(5, 40))]
    lists = [listed(best, list(range(40, 0, -1)))] * 2
    users = Vectors(["u a", "ü"], vectors, np.zeros(2, np.int64), [["i7", "é😀"], []], lists)
    items = Vectors(
        ["i1", "i 2"], vectors, np.zeros(2, np.int64), None, [listed([f"{number}", "z"], [2, 1])] * 2
    )
    return users, items


def test_another_language_reads_what_the_python_reader_reads(ask: Ask, redis_client: redis.Redis) -> None:
    store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1)
    for number in (1, 2):
        store.publish(number, *generation(number), {"lists": 40, "similar": 2})
    reader = EmbeddingReader(redis_client, namespace=NAMESPACE)
    for user, item in (("u a", "i1"), ("ü", "i 2"), ("nobody", "nothing")):
        known = user != "nobody"
        vector, best, similar = ask(user, item)
        assert (vector, best[:TOP], similar) == (
            reader.users([user])[0][0].tolist() if known else [],
            [one for one, _ in reader.recommend(user, top=TOP).items] if known else [],
            [one for one, _ in reader.similar(item, top=2).items] if known else [],
        )


def test_an_answer_is_of_one_generation_while_others_are_published(
    ask: Ask, redis_client: redis.Redis
) -> None:
    store = GenerationStore(redis_client, namespace=NAMESPACE, epoch=1, keep=10)
    store.publish(1, *generation(1), {"lists": 40, "similar": 2})
    done = threading.Event()

    def publish() -> None:
        number = 1
        while not done.wait(0.02):  # a shell, which starts a process a command, keeps up with ten generations
            number += 1
            store.publish(number, *generation(number), {"lists": 40, "similar": 2})
            if number % 7 == 0:
                store.rollback()

    publisher, seen = threading.Thread(target=publish), set[float]()
    publisher.start()
    try:
        end = time.monotonic() + 60  # seconds: a shell starts slowly under load
        while len(seen) < 10 and time.monotonic() < end:
            vector, best, similar = ask("u a", "i1")
            seen.add(vector[0])
            assert best[0] == similar[0] == f"{vector[0]:.0f}"
    finally:
        done.set()
        publisher.join()
    assert len(seen) == 10
