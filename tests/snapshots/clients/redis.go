// Package redis is as much of go-redis 9 as docs/reader.md uses, over a plain socket.
package redis

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
)

type Client struct {
	conn net.Conn
	in   *bufio.Reader
}

func NewClient(address string) *Client {
	parts, _ := url.Parse(address)
	conn, err := net.Dial("tcp", parts.Host)
	if err != nil {
		panic(err)
	}
	return &Client{conn, bufio.NewReader(conn)}
}

type StringCmd struct{ val string }

func (cmd *StringCmd) Val() string { return cmd.val }

type SliceCmd struct{ val []any }

func (cmd *SliceCmd) Val() []any             { return cmd.val }
func (cmd *SliceCmd) Result() ([]any, error) { return cmd.val, nil }

func (c *Client) HGet(_ context.Context, key, field string) *StringCmd {
	text, _ := c.ask("HGET", key, field)[0].(string)
	return &StringCmd{text}
}

func (c *Client) HMGet(_ context.Context, key string, fields ...string) *SliceCmd {
	return &SliceCmd{c.ask(append([]string{"HMGET", key}, fields...)...)}
}

func (c *Client) ask(words ...string) []any {
	var command strings.Builder
	fmt.Fprintf(&command, "*%d\r\n", len(words))
	for _, word := range words {
		fmt.Fprintf(&command, "$%d\r\n%s\r\n", len(word), word)
	}
	_, _ = io.WriteString(c.conn, command.String())
	head, several := c.size()
	count := 1
	if several {
		count = head
	}
	found := make([]any, count)
	for n := range found {
		size := head
		if several {
			size, _ = c.size()
		}
		if size >= 0 {
			blob := make([]byte, size+2)
			_, _ = io.ReadFull(c.in, blob)
			found[n] = string(blob[:size])
		}
	}
	return found
}

func (c *Client) size() (int, bool) {
	line, _ := c.in.ReadString('\n')
	size, _ := strconv.Atoi(strings.TrimSpace(line[1:]))
	return size, line[0] == '*'
}
