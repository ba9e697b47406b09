"use strict";
// Layers that the stages share: what Flax and models/layers have in Python.
//
// Axis letters, as in models/__init__.py: T query time, S key time, D embed, H heads, K per head,
// F MLP, V vocabulary. There is one text, so there is no batch axis. A layer is an object with the
// fields of its Flax module, its parameters, and its sub-layers, under the names that Flax has.
// A `reading` is what a pass over a text keeps: where the text starts, keys and values of tokens
// before, what was seen on the way, and what is switched off.

// Matrix of T rows and D columns. Columns of a matrix, as a head's, are a view of its numbers.
class Matrix {
  constructor(T, D, data = new Float32Array(T * D), first = 0, stride = D) {
    Object.assign(this, { T, D, data, first, stride });
  }

  row(t) {
    const begin = this.first + t * this.stride;
    return this.data.subarray(begin, begin + this.D);
  }

  columns(first, D) {
    return new Matrix(this.T, D, this.data, this.first + first, this.stride);
  }
}

// Returns f(row, t) of each row of a matrix, which has D numbers, as the rows of a new one.
function eachRow(x_TD, f) {
  const y_TD = new Matrix(x_TD.T, x_TD.D);
  for (let t = 0; t < x_TD.T; t++) f(x_TD.row(t), y_TD.row(t), t);
  return y_TD;
}

// Returns f of each number of a matrix.
function eachNumber(x_TD, f) {
  return eachRow(x_TD, (x_D, y_D) => {
    for (let d = 0; d < x_D.length; d++) y_D[d] = f(x_D[d]);
  });
}

// Returns the sum of two matrices.
function add(a_TD, b_TD) {
  return eachRow(a_TD, (a_D, y_D, t) => {
    const b_D = b_TD.row(t);
    for (let d = 0; d < a_D.length; d++) y_D[d] = a_D[d] + b_D[d];
  });
}

// Returns x @ kernel + bias. Four rows at a time, so that a number of the kernel is read once for
// all of them.
function Dense(layer, x_TD) {
  const { kernel: kernel_DF, bias: bias_F } = layer;
  const F = kernel_DF.D;
  const y_TF = new Matrix(x_TD.T, F);
  for (let t = 0; t < x_TD.T; t += 4) {
    const count = Math.min(4, x_TD.T - t);
    const x = [0, 1, 2, 3].map((i) => x_TD.row(t + Math.min(i, count - 1)));
    const y = [0, 1, 2, 3].map((i) => (i < count ? y_TF.row(t + i) : new Float32Array(F)));
    if (count === 1) addProduct(x[0], kernel_DF, y[0]);
    else addFourProducts(...x, kernel_DF, ...y);
  }
  return bias_F ? eachRow(y_TF, (y_F, z_F) => z_F.forEach((_, f) => (z_F[f] = y_F[f] + bias_F[f]))) : y_TF;
}

// Adds x @ kernel to y.
function addProduct(x_D, kernel_DF, y_F) {
  for (let d = 0; d < x_D.length; d++) {
    const row_F = kernel_DF.row(d);
    const x = x_D[d];
    for (let f = 0; f < y_F.length; f++) y_F[f] += x * row_F[f];
  }
}

// Adds the products of four rows.
function addFourProducts(x0, x1, x2, x3, kernel_DF, y0, y1, y2, y3) {
  for (let d = 0; d < x0.length; d++) {
    const row_F = kernel_DF.row(d);
    const [a, b, c, e] = [x0[d], x1[d], x2[d], x3[d]];
    for (let f = 0; f < y0.length; f++) {
      const k = row_F[f];
      y0[f] += a * k;
      y1[f] += b * k;
      y2[f] += c * k;
      y3[f] += e * k;
    }
  }
}

// Returns the rows of a table at these numbers.
function Embed(layer, numbers_T) {
  const y_TD = new Matrix(numbers_T.length, layer.embedding.D);
  numbers_T.forEach((number, t) => y_TD.row(t).set(layer.embedding.row(number)));
  return y_TD;
}

// Returns the numbers of a row as probabilities that add up to 1; -Infinity has none.
function softmax(row) {
  const most = row.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = row.map((score) => Math.exp(score - most));
  const total = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / total);
}

// Returns the name of head h of an attention layer.
function headName(layer, h) {
  return `${layer.path}/${h}`;
}

// Returns a value, or zeros where the reader has switched off what has this name. Keeps it for the
// page that asks what was seen.
function expose(reading, name, x_TD) {
  if (reading.seen) reading.seen[name] = x_TD;
  return reading.off.has(name) ? new Matrix(x_TD.T, x_TD.D) : x_TD;
}

// Key/value cache: returns the rows of this call after those of earlier calls, if `reading` keeps
// them, as it does while a text is written.
function KeyValueCache(layer, rows, reading) {
  if (!reading.kept) return rows;
  return rows.map((x_TD, i) => {
    const name = `${layer.path}/${i}`;
    const kept = (reading.kept[name] ??= new Matrix(layer.context_length, x_TD.D));
    for (let t = 0; t < x_TD.T; t++) kept.row(reading.start + t).set(x_TD.row(t));
    return new Matrix(reading.start + x_TD.T, x_TD.D, kept.data);
  });
}
