package redis.clients.jedis;

import static java.nio.charset.StandardCharsets.UTF_8;

import java.io.*;
import java.net.*;
import java.util.*;

/** As much of Jedis as docs/reader.md uses, over a plain socket. */
public class Jedis implements Closeable {
  private final Socket socket;
  private final InputStream in;

  public Jedis(String url) throws IOException {
    var address = URI.create(url);
    socket = new Socket(address.getHost(), address.getPort());
    in = new BufferedInputStream(socket.getInputStream());
  }

  public String hget(String key, String field) throws IOException {
    return text(ask(List.of("HGET".getBytes(UTF_8), key.getBytes(UTF_8), field.getBytes(UTF_8))).get(0));
  }

  public List<String> hmget(String key, String... fields) throws IOException {
    var words = Arrays.stream(fields).map(field -> field.getBytes(UTF_8)).toArray(byte[][]::new);
    return new ArrayList<>(hmget(key.getBytes(UTF_8), words).stream().map(Jedis::text).toList());
  }

  public List<byte[]> hmget(byte[] key, byte[]... fields) throws IOException {
    var words = new ArrayList<>(List.of("HMGET".getBytes(UTF_8), key));
    words.addAll(Arrays.asList(fields));
    return ask(words);
  }

  public void close() throws IOException {
    socket.close();
  }

  private List<byte[]> ask(List<byte[]> words) throws IOException {
    var command = new ByteArrayOutputStream();
    command.write(("*" + words.size() + "\r\n").getBytes(UTF_8));
    for (var word : words) {
      command.write(("$" + word.length + "\r\n").getBytes(UTF_8));
      command.write(word);
      command.write("\r\n".getBytes(UTF_8));
    }
    socket.getOutputStream().write(command.toByteArray());
    var head = line();
    boolean several = head.charAt(0) == '*';
    var found = new ArrayList<byte[]>();
    for (int n = several ? Integer.parseInt(head.substring(1)) : 1; n > 0; n--) {
      int size = Integer.parseInt((several ? line() : head).substring(1));
      found.add(size < 0 ? null : in.readNBytes(size));
      if (size >= 0) line();
    }
    return found;
  }

  private String line() throws IOException {
    var text = new StringBuilder();
    for (int c; (c = in.read()) != '\r'; ) text.append((char) c);
    in.read();
    return text.toString();
  }

  private static String text(byte[] value) {
    return value == null ? null : new String(value, UTF_8);
  }
}
