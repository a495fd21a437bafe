const newline = 0x0a;

/**
 * The non-empty lines of a byte stream, decoded as UTF-8 (splitting bytes at \n never cuts a character). Keeps only
 * the line in progress, joined once when it ends, so a long line costs no more than its length.
 * A last line without its newline is cut off, therefore not delivered. `onData` is called for every chunk.
 */
export async function* splitLines(chunks: AsyncIterable<Buffer>, onData: () => void): AsyncGenerator<string> {
  let partial: Buffer[] = [];
  for await (const chunk of chunks) {
    onData();
    let start = 0;
    for (let end = chunk.indexOf(newline); end !== -1; end = chunk.indexOf(newline, start)) {
      const rest = chunk.toString("utf8", start, end);
      const line =
        partial.length === 0 ? rest : Buffer.concat([...partial, chunk.subarray(start, end)]).toString("utf8");
      partial = [];
      start = end + 1;
      if (line !== "") yield line;
    }
    if (start < chunk.length) partial.push(chunk.subarray(start));
  }
}
