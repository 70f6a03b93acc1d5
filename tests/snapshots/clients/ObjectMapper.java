package com.fasterxml.jackson.databind;

import static java.nio.charset.StandardCharsets.UTF_8;

import java.util.*;

/** As much of Jackson as docs/reader.md uses: a JSON list of texts. */
public class ObjectMapper {
  public String[] readValue(byte[] json, Class<String[]> type) {
    String text = new String(json, UTF_8), names = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
    var found = new ArrayList<String>();
    StringBuilder one = null;
    for (int at = 0; at < text.length(); at++) {
      char c = text.charAt(at);
      if (one == null) {
        if (c == '"') one = new StringBuilder();
      } else if (c == '"') {
        found.add(one.toString());
        one = null;
      } else if (c == '\\' && text.charAt(at + 1) == 'u') {
        one.append((char) Integer.parseInt(text.substring(at + 2, at + 6), 16));
        at += 5;
      } else if (c == '\\') {
        one.append(meant.charAt(names.indexOf(text.charAt(++at))));
      } else {
        one.append(c);
      }
    }
    return found.toArray(String[]::new);
  }
}
