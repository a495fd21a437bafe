/** Expressions on which kllama's CEL differs from Kubernetes' and is meant to, for now or for good, with the reason. */
export const differences: readonly {
  readonly reason: string;
  readonly ours: string;
  readonly theirs: string;
  readonly expressions: readonly string[];
}[] = [
  {
    reason: "Optional elements in list and map literals are syntax that the CEL library does not read.",
    ours: "refused",
    theirs: "true",
    expressions: [
      "[?optional.of(1), ?optional.none()] == [1]",
      '{?"a": optional.of(1), ?"b": optional.none()} == {"a": 1}',
    ],
  },
  {
    reason: "What is wrong with a name or text is told in other words.",
    ours: "false",
    theirs: "true",
    expressions: ['format.uuid().validate("x").value() == ["does not match the UUID format"]'],
  },
  {
    reason: "A variable of cel.bind is evaluated at once, so that an error in it counts also where it is not used.",
    ours: "error",
    theirs: "true",
    expressions: ['cel.bind(x, device.attributes["gpu.kllama.ai"].none, true)'],
  },
  {
    reason: "A wrong argument of a method on an attribute, whose type only the device knows, shows on the device.",
    ours: "error",
    theirs: "refused",
    expressions: ['device.attributes["gpu.kllama.ai"].driverVersion.isGreaterThan("570.0.0")'],
  },
  {
    reason: "Lists are equal when their elements are; in cel-go also when comparing the elements fails.",
    ours: "false",
    theirs: "true",
    expressions: [
      '[device.attributes["gpu.kllama.ai"].driverVersion] == [3]',
      '[device.attributes["gpu.kllama.ai"].driverVersion] == ["575.57.8"]',
    ],
  },
  {
    reason: "A version is not in a list of strings; cel-go panics.",
    ours: "false",
    theirs: "error",
    expressions: ['device.attributes["gpu.kllama.ai"].driverVersion in ["575.57.8"]'],
  },
  {
    reason: "A start beyond the end of a string fails; cel-go finds nothing.",
    ours: "error",
    theirs: "false",
    expressions: ['"hello".indexOf("l", 30) == 3'],
  },
  {
    reason: "Strings are ordered by UTF-16 units; that differs from code points beyond the basic plane only.",
    ours: "false",
    theirs: "true",
    expressions: ['"😀" > "ｚ"'],
  },
];
