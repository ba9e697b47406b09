"use strict";
// Layers that the stages share: what Flax and models/layers have in Python.
//
// Axis letters, as in models/__init__.py: T query time, S key time, D embed, H heads, K per head,
// F MLP, V vocabulary. There is one text, so there is no batch axis. A layer is an object with the
// fields of its Flax module, its parameters, and its sub-layers, under the names that Flax has.
// `pass` is what holds for one call of a model: `start`, the position of its first token; `kept`, keys
// and values of earlier calls, or null; `off`, names of heads and MLPs that are switched off; `seen`,
// where the weights of the heads are kept for the page, or null.

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

// Returns the difference of two matrices.
function subtract(a_TD, b_TD) {
  return add(a_TD, eachNumber(b_TD, (b) => -b));
}

// Returns x @ kernel + bias.
function Dense(layer, x_TD) {
  const y_TF = product(x_TD, layer.kernel);
  const bias_F = layer.bias;
  if (bias_F) for (let t = 0; t < y_TF.T; t++) y_TF.row(t).forEach((y, f, y_F) => (y_F[f] = y + bias_F[f]));
  return y_TF;
}

// Returns x @ kernel, four rows and two columns at a time: a number that is read is then used several
// times, and the sums stay in registers. Rows and columns past the end are the last ones again.
function product(x_TD, kernel_DF) {
  const { T, D, data: x } = x_TD;
  const { D: F, data: kernel, first, stride } = kernel_DF;
  const y_TF = new Matrix(T, F);
  const y = y_TF.data;
  for (let t = 0; t < T; t += 4) {
    const [t1, t2, t3] = [t + 1, t + 2, t + 3].map((row) => Math.min(row, T - 1));
    const x0 = x_TD.first + t * x_TD.stride;
    const x1 = x_TD.first + t1 * x_TD.stride;
    const x2 = x_TD.first + t2 * x_TD.stride;
    const x3 = x_TD.first + t3 * x_TD.stride;
    for (let f = 0; f < F; f += 2) {
      const f1 = Math.min(f + 1, F - 1);
      let [y00, y01, y10, y11, y20, y21, y30, y31] = [0, 0, 0, 0, 0, 0, 0, 0];
      for (let d = 0, k = first + f; d < D; d++, k += stride) {
        const k0 = kernel[k];
        const k1 = kernel[k + f1 - f];
        y00 += x[x0 + d] * k0;
        y01 += x[x0 + d] * k1;
        y10 += x[x1 + d] * k0;
        y11 += x[x1 + d] * k1;
        y20 += x[x2 + d] * k0;
        y21 += x[x2 + d] * k1;
        y30 += x[x3 + d] * k0;
        y31 += x[x3 + d] * k1;
      }
      y[t3 * F + f1] = y31;
      y[t3 * F + f] = y30;
      y[t2 * F + f1] = y21;
      y[t2 * F + f] = y20;
      y[t1 * F + f1] = y11;
      y[t1 * F + f] = y10;
      y[t * F + f1] = y01;
      y[t * F + f] = y00;
    }
  }
  return y_TF;
}

// Returns the product of each row of x with each row of y: x @ y.T. Two rows of y at a time.
function rowProducts(x_TD, y_SD) {
  const { T, D, data: x } = x_TD;
  const { T: S, data: y, stride } = y_SD;
  const products_TS = new Matrix(T, S);
  for (let t = 0; t < T; t++) {
    const row = x_TD.first + t * x_TD.stride;
    const products_S = products_TS.row(t);
    for (let s = 0; s < S; s += 2) {
      const one = y_SD.first + s * stride;
      const other = s + 1 < S ? one + stride : one;
      let sum = 0;
      let otherSum = 0;
      for (let d = 0; d < D; d++) {
        const number = x[row + d];
        sum += number * y[one + d];
        otherSum += number * y[other + d];
      }
      products_S[s] = sum;
      products_S[s + 1] = otherSum; // Past the end it is lost.
    }
  }
  return products_TS;
}

// Returns the rows of a table at these numbers.
function Embed(layer, numbers_T) {
  const y_TD = new Matrix(numbers_T.length, layer.embedding.D);
  numbers_T.forEach((number, t) => y_TD.row(t).set(layer.embedding.row(number)));
  return y_TD;
}

// Returns the numbers of a row as probabilities that add up to 1; -Infinity has none.
function softmax(row) {
  const p = row.slice();
  let most = -Infinity;
  for (let i = 0; i < p.length; i++) if (p[i] > most) most = p[i];
  let total = 0;
  for (let i = 0; i < p.length; i++) total += p[i] = Math.exp(p[i] - most);
  for (let i = 0; i < p.length; i++) p[i] /= total;
  return p;
}

// Returns the name of head h of an attention layer.
function headName(layer, h) {
  return `${layer.path}/${h}`;
}

// Returns a value, or zeros if what has this name is switched off.
function unlessOff(pass, name, x_TD) {
  return pass.off.has(name) ? new Matrix(x_TD.T, x_TD.D) : x_TD;
}

// Returns the weights of a head, which are kept for the page to show, or zeros if it is off.
function expose(pass, name, weights_TS) {
  if (pass.seen) pass.seen[name] = weights_TS;
  return unlessOff(pass, name, weights_TS);
}

// Key/value cache: returns the rows of this call after those of earlier calls, if `pass` keeps
// them, as it does while a text is written.
function KeyValueCache(layer, rows, pass) {
  if (!pass.kept) return rows;
  return rows.map((x_TD, i) => {
    const name = `${layer.path}/${i}`;
    const kept = (pass.kept[name] ??= new Matrix(layer.context_length, x_TD.D));
    for (let t = 0; t < x_TD.T; t++) kept.row(pass.start + t).set(x_TD.row(t));
    return new Matrix(pass.start + x_TD.T, x_TD.D, kept.data);
  });
}
