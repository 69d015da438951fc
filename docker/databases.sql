-- Run once by the image, in an empty data folder: a role and a database for the studies, and a role and a database for
-- the record. Two, because Optuna and MLflow both keep their schema's version in a table of the same name.
\getenv acsearch_password ACSEARCH_DB_PASSWORD
\getenv mlflow_password MLFLOW_DB_PASSWORD
CREATE ROLE acsearch LOGIN PASSWORD :'acsearch_password';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE DATABASE acsearch OWNER acsearch;
CREATE DATABASE mlflow OWNER mlflow;
REVOKE CONNECT ON DATABASE acsearch, mlflow, postgres FROM PUBLIC;
