/** What to do about a refusal of the file system, by its code. */
const remedies: Readonly<Record<string, string>> = {
  ENOSPC: "free space on its file system",
  EDQUOT: "free space on its file system",
  EROFS: "mount its file system for writing",
  EACCES: "let the node agent write there",
  EPERM: "let the node agent write there",
  EEXIST: "something else is in the place of its folder; move that away",
  ENOTDIR: "something else is in the place of its folder; move that away",
  EISDIR: "a folder is in its place; move that away",
  ENOTEMPTY: "a folder is in its place; move that away",
  EIO: "look at the kernel's log for errors of the disk",
};

/** An error for people: `what` names the object, then follow the system's reason and the remedy. */
export function fileError(what: string, error: NodeJS.ErrnoException): Error {
  const remedy = remedies[error.code ?? ""];
  return new Error(`${what}: ${error.message}${remedy === undefined ? "" : `; ${remedy}`}`, { cause: error });
}
